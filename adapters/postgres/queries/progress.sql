-- Events: the last that a run of this job reported. $1 id
SELECT number, report, at, progress FROM job_progress WHERE job_id = $1
