-- Scheduler: due jobs that waited for an external worker move to the queue that serves their kind here now.
-- In bounded batches. $1 the lines of their kinds, $2 the queue of each, $3 the most of each kind at once
WITH held AS MATERIALIZED (
    -- Whoever claims holds the line: no job of it may change its line under his hands.
    SELECT l.name FROM lines AS l
    WHERE l.name = ANY ($1::text[])
    ORDER BY l.name
    FOR UPDATE
), found AS MATERIALIZED (
    SELECT waiting.id, bound.queue
    FROM unnest($1::text[], $2::text[]) AS bound (line, queue)
    JOIN held ON held.name = bound.line
    CROSS JOIN LATERAL (
        SELECT j.id
        FROM jobs AS j
        WHERE j.line = bound.line
          AND j.queue IS NULL
          AND j.status = 'pending'
          AND j.due
        ORDER BY j.level, j.seq
        LIMIT $3
        FOR UPDATE SKIP LOCKED
    ) AS waiting
), moved AS (
    UPDATE jobs AS j
    SET queue = found.queue
    FROM found
    WHERE j.id = found.id
    RETURNING j.id, j.queue, j.line, j.level, j.owner_service, j.seq
), detail AS (
    UPDATE job_details AS d
    SET queue = moved.queue
    FROM moved
    WHERE d.job_id = moved.id
), lane AS (
    SELECT reach_lanes(array_agg(m.line), array_agg(m.level), array_agg(m.owner_service), array_agg(m.seq))
    FROM moved AS m
    HAVING count(*) > 0
)
SELECT m.queue, count(*) AS jobs
FROM moved AS m, (SELECT count(*) FROM lane) AS lanes
GROUP BY m.queue
