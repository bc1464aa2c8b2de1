-- Every second per worker process, from its own session: it lives, and holds that session's lock. Tells which of its
-- queues are held by hand. $1 id, $2 worker_id, $3 host, $4 queues, $5 slots_per_queue, $6 running, $7 model_profiles
WITH beat AS (
    INSERT INTO workers (id, worker_id, host, queues, slots_per_queue, running, started_at, seen_at, model_profiles, lock_key)
    VALUES (
        $1, $2, $3, $4, $5, $6, now(), now(), $7, nullif(current_setting('ai_service.lock_key', true), '')::bigint
    )
    ON CONFLICT (id) DO UPDATE
    SET worker_id = excluded.worker_id,
        host = excluded.host,
        queues = excluded.queues,
        slots_per_queue = excluded.slots_per_queue,
        running = excluded.running,
        seen_at = excluded.seen_at,
        model_profiles = excluded.model_profiles,
        lock_key = excluded.lock_key
)
SELECT q.name FROM queues AS q WHERE q.name = ANY ($4::text[]) AND (q.paused OR q.stopped)
