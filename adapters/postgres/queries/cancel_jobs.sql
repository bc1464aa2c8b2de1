-- Cancel: pending or running jobs, with their runs if they have one.
-- $1 ids, $2 error_code, $3 error_message, $4 only those in one of these states (NULL: any)
WITH victim AS MATERIALIZED (
    -- Its own time, but not earlier than what it waited for: a claim may have begun after this statement did.
    SELECT
        j.id, j.lease_token, j.lease_expires_at, j.worker_id, j.started_at, j.waited_ms, j.number + 1 AS number,
        j.line, j.level, j.owner_service, j.charge,
        greatest(now(), j.updated_at) AS at
    FROM jobs AS j
    WHERE j.id = ANY ($1::uuid[])
      AND j.status IN ('pending', 'running')
      AND ($4::text[] IS NULL OR j.status = ANY ($4))
    ORDER BY j.id
    FOR UPDATE
), run AS (
    INSERT INTO runs (
        job_id, lease_token, worker_id, started_at, ended_at, waited_ms, number, became, outcome, error_code,
        error_message
    )
    SELECT
        v.id, v.lease_token, v.worker_id, v.started_at, v.at, v.waited_ms, v.number, 'cancelled', 'cancelled', $2, $3
    FROM victim AS v
    WHERE v.lease_token IS NOT NULL
), slot AS (
    -- Taken until the run's worker says that its call is closed.
    INSERT INTO closing_slots (lease_token, job_id, line, level, owner_service, charge, started_at, expires_at)
    SELECT
        v.lease_token, v.id, v.line, v.level, v.owner_service, v.charge, v.started_at, v.lease_expires_at
    FROM victim AS v
    WHERE v.lease_token IS NOT NULL
), change AS (
    INSERT INTO job_changes (job_id, number, status, at, error_code, error_message)
    SELECT v.id, v.number, 'cancelled', v.at, $2, $3
    FROM victim AS v
    WHERE v.lease_token IS NULL
)
UPDATE jobs AS j
SET status = 'cancelled',
    number = v.number,
    error_code = $2,
    error_message = $3,
    lease_token = NULL,
    lease_expires_at = NULL,
    lease_timeout = NULL,
    finished_at = v.at,
    updated_at = v.at
FROM victim AS v
WHERE j.id = v.id
RETURNING j.id, j.owner_service, j.task_type, j.queue, j.status, j.number
