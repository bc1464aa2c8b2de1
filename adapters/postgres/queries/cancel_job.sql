-- Cancel: a pending or running job, with its run if it has one. $1 id, $2 error_code, $3 error_message
WITH victim AS MATERIALIZED (
    SELECT j.id, j.lease_token, j.worker_id, j.started_at
    FROM jobs AS j
    WHERE j.id = $1
      AND j.status IN ('pending', 'running')
    FOR UPDATE
), run AS (
    INSERT INTO runs (job_id, lease_token, worker_id, started_at, ended_at, outcome)
    SELECT v.id, v.lease_token, v.worker_id, v.started_at, now(), 'cancelled'
    FROM victim AS v
    WHERE v.lease_token IS NOT NULL
)
UPDATE jobs AS j
SET status = 'cancelled',
    error_code = $2,
    error_message = $3,
    lease_token = NULL,
    lease_expires_at = NULL,
    finished_at = now(),
    updated_at = now()
FROM victim AS v
WHERE j.id = v.id
RETURNING j.id
