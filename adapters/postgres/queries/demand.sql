-- Tickets: what each queue has to do, what it may start, and which slots are idle.
-- $1 queues, $2 how young a beat must be, $3 count due up to
SELECT
    q.name AS queue,
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
                WHERE j.line = n.line
                  AND j.level = n.level
                  AND j.owner_service = n.owner_service
                  AND j.status = 'pending'
                  AND j.due
                  AND j.seq > s.low_seq
                LIMIT $3
            ) AS waiting
            WHERE n.line = q.name
            LIMIT $3
        ) AS due
    ) AS due,
    coalesce(w.slots, 0) AS slots,
    greatest(coalesce(w.slots - w.busy, 0), 0) AS idle,
    CASE
        WHEN coalesce(policy.concurrency, policy.adapted) IS NOT NULL
            THEN greatest(least(policy.concurrency, policy.adapted) - coalesce(l.busy, 0), 0)
    END AS room,
    CASE
        WHEN policy.paused OR policy.stopped THEN 'paused'
        WHEN policy.circuit_state <> 'closed' THEN 'circuit'
    END AS held
FROM unnest($1::text[]) AS q (name)
LEFT JOIN queues AS policy ON policy.name = q.name
LEFT JOIN lines AS l ON l.name = q.name
LEFT JOIN LATERAL (
    SELECT
        sum(workers.slots_per_queue)::integer AS slots,
        sum(coalesce((workers.running ->> q.name)::integer, 0))::integer AS busy
    FROM workers
    WHERE workers.seen_at > now() - $2::interval
      AND q.name = ANY (workers.queues)
) AS w ON true
