-- Exchange: settle what ended and claim what is next, in one commit. A row of the answer is a lost or a claimed job.
-- The claim sees what the settlement freed: each statement of a function takes its own snapshot.
CREATE OR REPLACE FUNCTION exchange_jobs(
    p_job_ids uuid[],
    p_tokens uuid[],
    p_outcomes text[],
    p_statuses text[],
    p_results bytea[],
    p_error_codes text[],
    p_error_messages text[],
    p_delays interval[],
    p_queue text,
    p_task_types text[],
    p_model_profiles text[],
    p_worker_id text,
    p_lease interval,
    p_alone boolean,
    p_limit integer
)
RETURNS TABLE (
    lost bigint,
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
AS $$
BEGIN
    IF cardinality(p_job_ids) > 0 THEN
        RETURN QUERY
        SELECT
            s.lost, NULL::uuid, NULL::uuid, NULL, NULL, NULL, NULL, NULL::smallint, NULL::smallint, NULL::smallint,
            NULL::smallint, NULL::integer, NULL::boolean, NULL::smallint, NULL::bytea,
            NULL::integer, NULL
        FROM settle_jobs(
            p_job_ids, p_tokens, p_outcomes, p_statuses, p_results, p_error_codes, p_error_messages, p_delays,
            nullif(p_queue, '')
        ) AS s;
    END IF;
    IF p_limit > 0 THEN
        RETURN QUERY
        SELECT NULL::bigint, c.*
        FROM claim_jobs(p_queue, p_task_types, p_model_profiles, p_worker_id, p_lease, p_alone, p_limit) AS c;
    END IF;
END
$$
