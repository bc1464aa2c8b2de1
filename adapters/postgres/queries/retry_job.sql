-- Manual retry: a failed, cancelled or running job starts afresh, in its old place; its runs stay as history. $1 id
WITH chosen AS MATERIALIZED (
    SELECT j.id, j.lease_token, j.worker_id, j.started_at
    FROM jobs AS j
    WHERE j.id = $1
      AND j.status IN ('failed', 'cancelled', 'running')
    FOR UPDATE
), run AS (
    INSERT INTO runs (job_id, lease_token, worker_id, started_at, ended_at, outcome)
    SELECT c.id, c.lease_token, c.worker_id, c.started_at, now(), 'retried'
    FROM chosen AS c
    WHERE c.lease_token IS NOT NULL
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
    finished_at = NULL,
    updated_at = now()
FROM chosen AS c
WHERE j.id = c.id
RETURNING j.id
