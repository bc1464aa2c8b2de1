-- Worker processes that live. $1 how young a beat must be
SELECT worker_id, host, queues, slots_per_queue, running, started_at, seen_at
FROM workers
WHERE seen_at > now() - $1::interval
ORDER BY worker_id
