-- Submit: store new jobs in the order given, all or none; one that is there already is left alone.
-- $1 ids, $2 owner_services, $3 owner_refs, $4 task_types, $5 model_profiles, $6 queues, $7 priorities, $8 max_attempts,
-- $9 run_ats (NULL: now), $10 inputs
WITH given AS MATERIALIZED (
    SELECT g.*, nextval('jobs_seq') AS seq, coalesce(g.gate, now()) AS run_at
    FROM unnest(
        $1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::smallint[], $8::smallint[],
        $9::timestamptz[], $10::bytea[]
    ) AS g (
        id, owner_service, owner_ref, task_type, model_profile, queue, priority, max_attempts, gate, input
    )
), job AS (
    INSERT INTO jobs (
        id, seq, status, priority, queue, owner_service, task_type, model_profile, max_attempts, run_at, due, updated_at
    )
    SELECT
        id, seq, 'pending', priority, queue, owner_service, task_type, model_profile, max_attempts, run_at,
        run_at <= now(), now()
    FROM given
    ON CONFLICT (id) DO NOTHING
    RETURNING id, seq, run_at, due, updated_at
), detail AS (
    INSERT INTO job_details (job_id, seq, owner_service, owner_ref, task_type, model_profile, created_at)
    SELECT id, seq, owner_service, owner_ref, task_type, model_profile, now()
    FROM given
    WHERE id = ANY (ARRAY (SELECT id FROM job))
), body AS (
    INSERT INTO job_inputs (job_id, input)
    SELECT id, input
    FROM given
    WHERE id = ANY (ARRAY (SELECT id FROM job))
)
SELECT id, seq, run_at, due, updated_at FROM job
