-- Manual retry: a failed, cancelled or running job starts afresh, in its old place; its runs stay as history. $1 id
WITH chosen AS MATERIALIZED (
    SELECT j.id, j.lease_token
    FROM jobs AS j
    WHERE j.id = $1
      AND j.status IN ('failed', 'cancelled', 'running')
    FOR UPDATE
), run AS (
    UPDATE runs AS r
    SET ended_at = now(), outcome = 'retried'
    FROM chosen AS c
    WHERE r.job_id = c.id
      AND r.lease_token = c.lease_token
), result AS (
    DELETE FROM job_results
    WHERE job_id = ANY (ARRAY (SELECT chosen.id FROM chosen))
)
UPDATE jobs AS j
SET status = 'pending',
    attempts = 0,
    crashes = 0,
    give_backs = 0,
    error_code = NULL,
    error_message = NULL,
    run_at = now(),
    due = true,
    lease_token = NULL,
    lease_expires_at = NULL,
    worker_id = NULL,
    finished_at = NULL,
    updated_at = now()
FROM chosen AS c
WHERE j.id = c.id
RETURNING j.id
