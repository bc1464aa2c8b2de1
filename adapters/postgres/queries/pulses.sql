-- Long poll and events: how far the jobs are that callers of this process wait for. $1 ids
SELECT j.id, j.status, j.number, coalesce(p.number, 0) AS run, coalesce(p.report, 0) AS report
FROM jobs AS j
LEFT JOIN job_progress AS p ON p.job_id = j.id
WHERE j.id = ANY ($1::uuid[])
