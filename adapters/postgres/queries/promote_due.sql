-- Scheduler, every second: jobs whose time has come move into the ready index.
-- In bounded batches: $1 is the most at once.
WITH ready AS MATERIALIZED (
    SELECT j.id
    FROM jobs AS j
    WHERE j.status = 'pending'
      AND NOT j.due
      AND j.run_at <= now()
    ORDER BY j.run_at
    LIMIT $1
    FOR UPDATE SKIP LOCKED
), promoted AS (
    UPDATE jobs AS j
    SET due = true
    WHERE j.id = ANY (ARRAY (SELECT ready.id FROM ready))
    RETURNING j.queue
)
SELECT queue, count(*) AS jobs FROM promoted GROUP BY queue
