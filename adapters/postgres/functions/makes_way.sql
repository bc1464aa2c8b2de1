-- Whether this worker must claim nothing, so that it soon runs no job: one that may not have company waits for a worker
-- without any, and under a constant load none ever would be. The least busy one that can run it makes way. Called by
-- claim_line, after a while in which some worker may have become free by itself.
CREATE OR REPLACE FUNCTION makes_way(p_line text, p_worker_id text, p_model_profile text)
RETURNS boolean
LANGUAGE plpgsql
SET jit = off
AS $$
#variable_conflict use_column
BEGIN
    RETURN p_worker_id = (
        SELECT w.worker_id FROM workers AS w
        WHERE p_line = ANY (w.queues)
          AND w.seen_at > now() - interval '5 seconds'
          AND (w.model_profiles IS NULL OR p_model_profile = ANY (w.model_profiles))
        ORDER BY (SELECT sum(r.value::integer) FROM jsonb_each_text(w.running) AS r), w.worker_id
        LIMIT 1
    );
END
$$
