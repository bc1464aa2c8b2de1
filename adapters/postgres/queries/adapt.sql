-- Adaptive concurrency: keep the limit that was found, unless it was switched off meanwhile.
-- $1 queue, $2 slots, $3 what it was found by
UPDATE queues SET adapted = $2, adapting = $3 WHERE name = $1 AND adaptive
