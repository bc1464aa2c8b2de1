-- Claim: the most urgent due jobs of one queue that nobody holds, each with a new lease.
-- plpgsql keeps the plan: JIT would compile it for ten times the price of running it once the table is large, and one
-- made while the table was empty would go on scanning it.
CREATE OR REPLACE FUNCTION claim_jobs(
    p_queue text,
    p_task_types text[],
    p_model_profiles text[],
    p_worker_id text,
    p_lease interval,
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
    input bytea
)
LANGUAGE plpgsql
SET jit = off
SET enable_seqscan = off
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH claimed AS (
        UPDATE jobs AS j
        SET status = 'running',
            number = j.number + 1,
            lease_token = gen_random_uuid(),
            lease_expires_at = now() + p_lease,
            lease_timeout = NULL,
            worker_id = p_worker_id,
            waited_ms = waited_ms(j.run_at, j.created_at, now()),
            started_at = now(),
            updated_at = now()
        -- ANY (ARRAY (...)), not a join: a generic plan takes LIMIT for a tenth of the table and would scan all of it.
        WHERE j.id = ANY (ARRAY (
            SELECT ready.id
            FROM jobs AS ready
            WHERE ready.queue = p_queue
              AND ready.status = 'pending'
              AND ready.due
              AND ready.task_type = ANY (p_task_types)
              AND ready.model_profile = ANY (p_model_profiles)
            ORDER BY ready.priority, ready.seq
            LIMIT p_limit
            FOR UPDATE SKIP LOCKED
        ))
        RETURNING j.*
    )
    SELECT
        claimed.id,
        claimed.lease_token,
        claimed.task_type,
        claimed.model_profile,
        claimed.owner_service,
        claimed.queue,
        claimed.priority,
        claimed.attempts,
        claimed.max_attempts,
        claimed.give_backs,
        claimed.number,
        (SELECT job_inputs.input FROM job_inputs WHERE job_inputs.job_id = claimed.id)
    FROM claimed
    ORDER BY claimed.priority, claimed.seq;
END
$$
