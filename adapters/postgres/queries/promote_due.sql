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
    RETURNING j.queue, j.line, j.level, j.owner_service, j.seq
), lane AS (
    SELECT reach_lanes(array_agg(p.line), array_agg(p.level), array_agg(p.owner_service), array_agg(p.seq))
    FROM promoted AS p
    HAVING count(*) > 0
)
SELECT p.queue, count(*) AS jobs
FROM promoted AS p, (SELECT count(*) FROM lane) AS lanes
GROUP BY p.queue
