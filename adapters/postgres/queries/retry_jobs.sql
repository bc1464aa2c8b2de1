-- Manual retry: failed, cancelled or running jobs start afresh, in their old place; their runs stay as history.
-- $1 ids, $2 only those in one of these states (NULL: any)
WITH chosen AS MATERIALIZED (
    -- Its own time, but not earlier than what it waited for: a claim may have begun after this statement did.
    SELECT
        j.id, j.lease_token, j.lease_expires_at, j.worker_id, j.started_at, j.waited_ms, j.number + 1 AS number,
        j.line, j.level, j.priority, j.owner_service, j.seq, j.charge,
        greatest(now(), j.updated_at) AS at
    FROM jobs AS j
    WHERE j.id = ANY ($1::uuid[])
      AND j.status IN ('failed', 'cancelled', 'running')
      AND ($2::text[] IS NULL OR j.status = ANY ($2))
    ORDER BY j.id
    FOR UPDATE
), run AS (
    INSERT INTO runs (job_id, lease_token, worker_id, started_at, ended_at, waited_ms, number, became, outcome)
    SELECT c.id, c.lease_token, c.worker_id, c.started_at, c.at, c.waited_ms, c.number, 'pending', 'retried'
    FROM chosen AS c
    WHERE c.lease_token IS NOT NULL
), slot AS (
    -- Taken until the run's worker says that its call is closed.
    INSERT INTO closing_slots (lease_token, job_id, line, level, owner_service, charge, started_at, expires_at)
    SELECT
        c.lease_token, c.id, c.line, c.level, c.owner_service, c.charge, c.started_at, c.lease_expires_at
    FROM chosen AS c
    WHERE c.lease_token IS NOT NULL
), lane AS (
    SELECT reach_lanes(array_agg(c.line), array_agg(c.priority), array_agg(c.owner_service), array_agg(c.seq))
    FROM chosen AS c
    HAVING count(*) > 0
), change AS (
    INSERT INTO job_changes (job_id, number, status, at)
    SELECT c.id, c.number, 'pending', c.at
    FROM chosen AS c
    WHERE c.lease_token IS NULL
)
UPDATE jobs AS j
SET status = 'pending',
    number = c.number,
    level = j.priority,
    attempts = 0,
    crashes = 0,
    give_backs = 0,
    error_code = NULL,
    error_message = NULL,
    run_at = now(),
    due = true,
    deadline_at = NULL,
    lease_token = NULL,
    lease_expires_at = NULL,
    lease_timeout = NULL,
    finished_at = NULL,
    updated_at = c.at
FROM chosen AS c, (SELECT count(*) FROM lane) AS lanes
WHERE j.id = c.id
RETURNING j.id, j.owner_service, j.task_type, j.queue, j.status, j.number
