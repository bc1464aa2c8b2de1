-- Adaptive concurrency, every second: how the runs of a queue ended lately, and how it stands.
-- $1 queue, $2 within, $3 how young a worker's beat must be, $4 codes of overload, $5 count due up to
SELECT
    (
        SELECT count(*) FROM runs AS r JOIN jobs AS j ON j.id = r.job_id
        WHERE r.ended_at > now() - $2::interval AND j.queue = $1 AND r.outcome = 'completed'
    ) AS completed,
    (
        SELECT count(*) FROM runs AS r JOIN jobs AS j ON j.id = r.job_id
        WHERE r.ended_at > now() - $2::interval AND j.queue = $1 AND r.error_code = ANY ($4::text[])
    ) AS overloads,
    coalesce((SELECT l.busy FROM lines AS l WHERE l.name = $1), 0) AS busy,
    (
        SELECT count(*)
        FROM (
            SELECT FROM lane_names AS n
            CROSS JOIN LATERAL (
                SELECT s.low_seq FROM lane_states AS s
                WHERE s.line = n.line AND s.level = n.level AND s.owner_service = n.owner_service
                ORDER BY s.turn DESC
                LIMIT 1
            ) AS s
            CROSS JOIN LATERAL (
                SELECT FROM jobs AS j
                WHERE j.line = n.line AND j.level = n.level AND j.owner_service = n.owner_service
                  AND j.status = 'pending' AND j.due AND j.seq > s.low_seq
                LIMIT $5
            ) AS waiting
            WHERE n.line = $1
            LIMIT $5
        ) AS due
    ) AS due,
    coalesce(
        (
            SELECT sum(w.slots_per_queue) FROM workers AS w
            WHERE $1 = ANY (w.queues) AND w.seen_at > now() - $3::interval
        ),
        0
    )::integer AS slots
