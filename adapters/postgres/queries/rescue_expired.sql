-- Scheduler, every second: take running jobs whose lease ran out from workers that must be dead.
-- $1 max_crashes, $2 error_code, $3 message when it goes back, $4 message when it is given up (%s: crashes), $5 most at once
WITH dead AS MATERIALIZED (
    SELECT
        j.id, j.lease_token, j.worker_id, j.started_at,
        j.crashes + 1 AS crashes,
        j.crashes + 1 >= $1::integer AS hopeless
    FROM jobs AS j
    WHERE j.status = 'running'
      AND j.lease_expires_at < now()
    ORDER BY j.lease_expires_at
    LIMIT $5
    FOR UPDATE SKIP LOCKED
), run AS (
    INSERT INTO runs (job_id, lease_token, worker_id, started_at, ended_at, outcome, error_code)
    SELECT d.id, d.lease_token, d.worker_id, d.started_at, now(), 'crashed', $2
    FROM dead AS d
), rescued AS (
    UPDATE jobs AS j
    SET status = CASE WHEN d.hopeless THEN 'failed' ELSE 'pending' END,
        crashes = d.crashes,
        error_code = $2,
        error_message = CASE WHEN d.hopeless THEN format($4, d.crashes) ELSE $3 END,
        lease_token = NULL,
        lease_expires_at = NULL,
        finished_at = CASE WHEN d.hopeless THEN now() END,
        updated_at = now()
    FROM dead AS d
    WHERE j.id = d.id
    RETURNING j.queue, d.hopeless
)
SELECT queue, count(*) FILTER (WHERE NOT hopeless) AS back, count(*) AS jobs FROM rescued GROUP BY queue
