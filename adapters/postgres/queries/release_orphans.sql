-- After a lost connection: give back what this worker claimed on this queue without ever hearing of it.
-- $1 worker_id, $2 queue, $3 tokens that it does know
WITH orphan AS MATERIALIZED (
    SELECT j.id, j.lease_token, j.worker_id, j.started_at, j.waited_ms, j.number + 1 AS number
    FROM jobs AS j
    WHERE j.status = 'running'
      AND j.worker_id = $1
      AND j.queue = $2
      AND j.lease_timeout IS NULL
      AND j.lease_token <> ALL ($3::uuid[])
    FOR UPDATE
), run AS (
    INSERT INTO runs (job_id, lease_token, worker_id, started_at, ended_at, waited_ms, number, became, outcome)
    SELECT o.id, o.lease_token, o.worker_id, o.started_at, now(), o.waited_ms, o.number, 'pending', 'released'
    FROM orphan AS o
), job AS (
    UPDATE jobs AS j
    SET status = 'pending',
        number = o.number,
        due = true,
        lease_token = NULL,
        lease_expires_at = NULL,
        updated_at = now()
    FROM orphan AS o
    WHERE j.id = o.id
    RETURNING j.id
)
SELECT count(*) FROM job
