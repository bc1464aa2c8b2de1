-- Scheduler, every second: jobs that have waited so long that their queue's policy orders them as more urgent.
-- Only the first of each lane are looked at: those behind them would not be next anyway. $1 most of a lane
WITH late AS MATERIALIZED (
    SELECT j.id, j.target
    FROM queues AS q
    JOIN lane_names AS n ON n.line = q.name AND n.level > 1
    CROSS JOIN LATERAL (
        SELECT s.low_seq FROM lane_states AS s
        WHERE s.line = n.line AND s.level = n.level AND s.owner_service = n.owner_service
        ORDER BY s.turn DESC
        LIMIT 1
    ) AS s
    CROSS JOIN LATERAL (
        SELECT
            w.id, w.level,
            greatest(
                1,
                w.priority
                - 2 * floor(extract(epoch FROM now() - greatest(w.run_at, w.created_at)) / extract(epoch FROM q.ageing))
            )::smallint AS target
        FROM jobs AS w
        WHERE w.line = n.line
          AND w.level = n.level
          AND w.owner_service = n.owner_service
          AND w.status = 'pending'
          AND w.due
          AND w.seq > s.low_seq
        ORDER BY w.seq
        LIMIT $1
    ) AS j
    WHERE q.ageing IS NOT NULL
      AND j.target < j.level
), raised AS (
    UPDATE jobs AS j
    SET level = late.target
    FROM late
    WHERE j.id = late.id
      AND j.status = 'pending'
    RETURNING j.line, j.level, j.owner_service, j.seq
), lane AS (
    SELECT reach_lanes(array_agg(r.line), array_agg(r.level), array_agg(r.owner_service), array_agg(r.seq))
    FROM raised AS r
    HAVING count(*) > 0
)
SELECT count(*) AS jobs FROM raised AS r, (SELECT count(*) FROM lane) AS lanes
