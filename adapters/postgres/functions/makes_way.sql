-- Whether this worker must claim nothing, so that it soon runs no job: one that may not have company waits for a worker
-- without any, and under a constant load none ever would be. The least busy one makes way, after a while in which some
-- other may have become free by itself. Called by claim_line; p_since: when the job began to wait.
CREATE OR REPLACE FUNCTION makes_way(p_line text, p_worker_id text, p_since timestamptz)
RETURNS boolean
LANGUAGE plpgsql
SET jit = off
AS $$
#variable_conflict use_column
BEGIN
    IF p_since > now() - interval '5 seconds' THEN
        RETURN false;
    END IF;
    RETURN p_worker_id = (
        SELECT w.worker_id FROM workers AS w
        WHERE p_line = ANY (w.queues)
          AND w.seen_at > now() - interval '5 seconds'
        ORDER BY (SELECT sum(r.value::integer) FROM jsonb_each_text(w.running) AS r), w.worker_id
        LIMIT 1
    );
END
$$
