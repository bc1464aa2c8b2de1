-- A job's runs; the one that goes on is the job's own row. $1 id
SELECT r.number, r.started_at, r.ended_at, r.worker_id, r.outcome, r.error_code, r.error_message, a.attempts
FROM runs AS r
LEFT JOIN run_attempts AS a ON a.lease_token = r.lease_token
WHERE r.job_id = $1
UNION ALL
SELECT j.number + 1, j.started_at, NULL, j.worker_id, NULL, NULL, NULL, NULL
FROM jobs AS j
WHERE j.id = $1
  AND j.status = 'running'
ORDER BY number
