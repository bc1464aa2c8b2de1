-- Scheduler, every second: cancel jobs that were not started for the first time by their deadline.
-- $1 error_code, $2 error_message, $3 most at once
WITH late AS MATERIALIZED (
    SELECT j.id, j.number + 1 AS number
    FROM jobs AS j
    WHERE j.status = 'pending'
      AND j.started_at IS NULL
      AND j.deadline_at <= now()
    ORDER BY j.deadline_at
    LIMIT $3
    FOR UPDATE SKIP LOCKED
), change AS (
    INSERT INTO job_changes (job_id, number, status, at, error_code, error_message)
    SELECT l.id, l.number, 'cancelled', now(), $1, $2
    FROM late AS l
)
UPDATE jobs AS j
SET status = 'cancelled',
    number = l.number,
    error_code = $1,
    error_message = $2,
    finished_at = now(),
    updated_at = now()
FROM late AS l
WHERE j.id = l.id
RETURNING j.id, j.owner_service, j.task_type, j.queue, j.status, j.number
