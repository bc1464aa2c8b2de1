-- Cancel: a pending or running job, with its run if it has one. $1 id, $2 error_code, $3 error_message
WITH victim AS MATERIALIZED (
    SELECT j.id, j.lease_token
    FROM jobs AS j
    WHERE j.id = $1
      AND j.status IN ('pending', 'running')
    FOR UPDATE
), run AS (
    UPDATE runs AS r
    SET ended_at = now(), outcome = 'cancelled'
    FROM victim AS v
    WHERE r.job_id = v.id
      AND r.lease_token = v.lease_token
)
UPDATE jobs AS j
SET status = 'cancelled',
    error_code = $2,
    error_message = $3,
    lease_token = NULL,
    lease_expires_at = NULL,
    worker_id = NULL,
    finished_at = now(),
    updated_at = now()
FROM victim AS v
WHERE j.id = v.id
RETURNING j.id
