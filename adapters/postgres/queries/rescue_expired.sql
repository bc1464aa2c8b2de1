-- Scheduler, every second: take running jobs whose lease ran out from workers that must be dead. A built-in worker's run
-- crashed and is not counted; an external worker's failed.
-- $1 max_crashes, $2 error_code, $3 message when it goes back, $4 message when it is given up (%s: crashes),
-- $5 message of an external one's, $6 its delay before the next try, $7 most at once
WITH dead AS MATERIALIZED (
    SELECT
        j.id, j.lease_token, j.worker_id, j.started_at, j.waited_ms,
        j.number + 1 AS number,
        j.lease_timeout IS NOT NULL AS external,
        j.attempts + (j.lease_timeout IS NOT NULL)::integer AS attempts,
        j.crashes + (j.lease_timeout IS NULL)::integer AS crashes,
        CASE WHEN j.lease_timeout IS NULL THEN j.crashes + 1 >= $1::integer ELSE j.attempts + 1 >= j.max_attempts END
            AS hopeless
    FROM jobs AS j
    WHERE j.status = 'running'
      AND j.lease_expires_at < now()
    ORDER BY j.lease_expires_at
    LIMIT $7
    FOR UPDATE SKIP LOCKED
), said AS MATERIALIZED (
    SELECT
        d.*,
        CASE WHEN d.hopeless THEN 'failed' ELSE 'pending' END AS became,
        CASE WHEN d.external THEN $5 WHEN d.hopeless THEN format($4, d.crashes) ELSE $3 END AS message
    FROM dead AS d
), run AS (
    INSERT INTO runs (
        job_id, lease_token, worker_id, started_at, ended_at, waited_ms, number, became, outcome, error_code,
        error_message
    )
    SELECT
        s.id, s.lease_token, s.worker_id, s.started_at, now(), s.waited_ms, s.number, s.became,
        CASE WHEN s.external THEN 'expired' ELSE 'crashed' END, $2, s.message
    FROM said AS s
)
UPDATE jobs AS j
SET status = s.became,
    number = s.number,
    attempts = s.attempts,
    crashes = s.crashes,
    error_code = $2,
    error_message = s.message,
    run_at = CASE
        WHEN s.external AND NOT s.hopeless AND $6::interval > interval '0' THEN now() + $6::interval
        ELSE j.run_at
    END,
    due = s.hopeless OR NOT s.external OR $6::interval = interval '0',
    lease_token = NULL,
    lease_expires_at = NULL,
    lease_timeout = NULL,
    finished_at = CASE WHEN s.hopeless THEN now() END,
    updated_at = now()
FROM said AS s
WHERE j.id = s.id
RETURNING j.id, j.owner_service, j.task_type, j.queue, j.status, j.number
