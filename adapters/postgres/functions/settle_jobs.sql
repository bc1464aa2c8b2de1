-- Settle: end runs and move their jobs on, where the run's token is still the job's. Returns the places, from 1, of
-- those where it is not: by place and not by job, for two runs of one job may end together, one of them too late.
-- Either way the run's slot is free then. p_line is the line of them all; NULL: look it up.
CREATE OR REPLACE FUNCTION settle_jobs(
    p_job_ids uuid[],
    p_tokens uuid[],
    p_outcomes text[],
    p_statuses text[],
    p_results bytea[],
    p_error_codes text[],
    p_error_messages text[],
    p_delays interval[],
    p_line text
)
RETURNS TABLE (lost bigint)
LANGUAGE plpgsql
SET jit = off
SET enable_seqscan = off
SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
DECLARE
    settled bigint[];
    ended_in text[];
    at_levels smallint[];
    of_owners text[];
    charges double precision[];
    costs double precision[];
    as_completed boolean[];
    back_in text[];
    back_levels smallint[];
    back_owners text[];
    back_seqs bigint[];
BEGIN
    -- The lines first: whoever claims holds one of them, and then asks for jobs.
    PERFORM FROM line_names AS l
    WHERE l.name = ANY (
        CASE WHEN p_line IS NOT NULL THEN ARRAY[p_line] ELSE ARRAY (
            SELECT j.line FROM jobs AS j WHERE j.id = ANY (p_job_ids)
            UNION
            SELECT c.line FROM closing_slots AS c WHERE c.lease_token = ANY (p_tokens)
        ) END
    )
    ORDER BY l.name
    FOR UPDATE;

    WITH ended AS MATERIALIZED (
        SELECT *
        FROM unnest(
            p_job_ids, p_tokens, p_outcomes, p_statuses, p_results, p_error_codes, p_error_messages, p_delays
        ) WITH ORDINALITY AS e (job_id, token, outcome, status, result, error_code, error_message, delay, place)
    ), job AS (
        UPDATE jobs AS j
        SET status = e.status,
            number = j.number + 1,
            attempts = j.attempts + (e.outcome IN ('completed', 'failed'))::integer,
            give_backs = j.give_backs + (e.outcome = 'given_back')::integer,
            error_code = CASE WHEN e.status = 'completed' THEN NULL ELSE coalesce(e.error_code, j.error_code) END,
            error_message = CASE
                WHEN e.status = 'completed' THEN NULL
                WHEN e.error_code IS NULL THEN j.error_message
                ELSE e.error_message
            END,
            run_at = CASE WHEN e.delay > interval '0' THEN now() + e.delay ELSE j.run_at END,
            due = e.delay = interval '0',
            lease_token = NULL,
            lease_expires_at = NULL,
            lease_timeout = NULL,
            finished_at = CASE WHEN e.status = 'pending' THEN NULL ELSE now() END,
            updated_at = now()
        FROM ended AS e
        WHERE j.id = e.job_id
          AND j.lease_token = e.token
        RETURNING
            e.place, j.id, j.worker_id, j.started_at, j.waited_ms, j.number, j.status,
            e.token, e.outcome, e.result, e.error_code, e.error_message,
            j.line, j.level, j.owner_service, j.seq, j.charge, j.due
    ), run AS (
        INSERT INTO runs (
            job_id, lease_token, worker_id, started_at, ended_at, waited_ms, number, became, outcome, error_code,
            error_message
        )
        SELECT
            job.id, job.token, job.worker_id, job.started_at, now(), job.waited_ms, job.number, job.status,
            job.outcome, job.error_code, job.error_message
        FROM job
    ), result AS (
        INSERT INTO job_results (job_id, result)
        SELECT job.id, job.result
        FROM job
        WHERE job.result IS NOT NULL
    )
    SELECT
        (SELECT coalesce(array_agg(job.place), '{}') FROM job), slot.*, back.*
    INTO
        settled, ended_in, at_levels, of_owners, charges, costs, as_completed,
        back_in, back_levels, back_owners, back_seqs
    FROM (
        SELECT
            array_agg(job.line), array_agg(job.level), array_agg(job.owner_service), array_agg(job.charge),
            array_agg(extract(epoch FROM now() - job.started_at)::double precision),
            array_agg(job.outcome = 'completed')
        FROM job
    ) AS slot
    CROSS JOIN (
        SELECT
            array_agg(job.line), array_agg(job.level), array_agg(job.owner_service), array_agg(job.seq)
        FROM job
        WHERE job.status = 'pending'
          AND job.due
    ) AS back;
    IF ended_in IS NOT NULL THEN
        PERFORM free_slots(ended_in, at_levels, of_owners, charges, costs, as_completed);
    END IF;
    IF back_in IS NOT NULL THEN
        PERFORM reach_lanes(back_in, back_levels, back_owners, back_seqs);
    END IF;

    IF cardinality(settled) < cardinality(p_job_ids) THEN
        -- Apart: what took the jobs away may have been waited for above, and its slots are seen only now.
        WITH closed AS (
            DELETE FROM closing_slots AS c
            WHERE c.lease_token = ANY (p_tokens)
            RETURNING c.*
        )
        SELECT
            array_agg(c.line), array_agg(c.level), array_agg(c.owner_service), array_agg(c.charge),
            array_agg(extract(epoch FROM now() - c.started_at)::double precision), array_agg(false)
        INTO ended_in, at_levels, of_owners, charges, costs, as_completed
        FROM closed AS c;
        IF ended_in IS NOT NULL THEN
            PERFORM free_slots(ended_in, at_levels, of_owners, charges, costs, as_completed);
        END IF;
        RETURN QUERY
        SELECT given.place FROM generate_series(1, cardinality(p_job_ids)::bigint) AS given (place)
        WHERE given.place <> ALL (settled);
    END IF;
END
$$
