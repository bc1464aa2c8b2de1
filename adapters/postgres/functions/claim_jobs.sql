-- Claim for a built-in worker: the most urgent due jobs of one queue that it serves, each with a new lease.
CREATE OR REPLACE FUNCTION claim_jobs(
    p_queue text,
    p_task_types text[],
    p_model_profiles text[],
    p_worker_id text,
    p_lease interval,
    p_alone boolean,
    p_limit integer
)
RETURNS TABLE (
    job_id uuid,
    lease_token uuid,
    task_type text,
    model_profile text,
    owner_service text,
    queue text,
    priority smallint,
    attempts smallint,
    max_attempts smallint,
    give_backs smallint,
    number integer,
    trial boolean,
    crashes smallint,
    input bytea,
    waited_ms integer,
    traceparent text
)
LANGUAGE plpgsql
SET jit = off
SET enable_seqscan = off
SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
DECLARE
    claimed uuid[];
    tried uuid;
BEGIN
    claimed := claim_line(
        p_queue, NULL, p_task_types, p_model_profiles, NULL, p_worker_id, p_lease, false, p_alone, p_limit
    );
    IF cardinality(claimed) = 0 THEN
        RETURN;
    END IF;
    tried := (SELECT s.trial_token FROM line_states AS s WHERE s.line = p_queue ORDER BY s.turn DESC LIMIT 1);
    RETURN QUERY
    SELECT
        j.id, j.lease_token, j.task_type, j.model_profile, j.owner_service, j.queue, j.priority, j.attempts,
        j.max_attempts, j.give_backs, j.number,
        coalesce(j.lease_token = tried, false),
        j.crashes,
        i.input,
        j.waited_ms,
        i.traceparent
    FROM unnest(claimed) WITH ORDINALITY AS c (id, place)
    JOIN jobs AS j ON j.id = c.id
    -- The limit keeps it a look-up for each, whatever the statistics say.
    CROSS JOIN LATERAL (SELECT b.input, b.traceparent FROM job_inputs AS b WHERE b.job_id = j.id LIMIT 1) AS i
    ORDER BY c.place;
END
$$
