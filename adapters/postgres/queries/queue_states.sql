-- Operators, circuits: every queue that is configured, was ever steered or has had jobs.
SELECT
    coalesce(q.name, l.name) AS name, q.paused, q.stopped, q.concurrency, q.preempt, q.reserved_share, q.ageing,
    q.adaptive, q.adapting, q.circuit, coalesce(l.busy, 0) AS busy
FROM queues AS q
FULL JOIN (SELECT * FROM lines WHERE strpos(name, ' ') = 0) AS l ON l.name = q.name
ORDER BY 1
