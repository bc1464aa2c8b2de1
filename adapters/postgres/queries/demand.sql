-- Tickets: what each queue has to do and which slots are idle. $1 queues, $2 how young a beat must be, $3 count due up to
SELECT
    q.name AS queue,
    (
        SELECT count(*)
        FROM (
            SELECT 1 FROM jobs AS j WHERE j.queue = q.name AND j.status = 'pending' AND j.due LIMIT $3
        ) AS due
    ) AS due,
    coalesce(w.slots, 0) AS slots,
    greatest(coalesce(w.slots - w.busy, 0), 0) AS idle
FROM unnest($1::text[]) AS q (name)
LEFT JOIN LATERAL (
    SELECT
        sum(workers.slots_per_queue)::integer AS slots,
        sum(coalesce((workers.running ->> q.name)::integer, 0))::integer AS busy
    FROM workers
    WHERE workers.seen_at > now() - $2::interval
      AND q.name = ANY (workers.queues)
) AS w ON true
