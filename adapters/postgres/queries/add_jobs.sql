-- Submit: store new jobs in the order given, all or none; one that is there already, by its id or its idempotency key, is
-- left alone. A twin that is being stored at this moment is waited for.
-- $1 ids, $2 owner_services, $3 owner_refs, $4 task_types, $5 model_profiles, $6 queues, $7 priorities, $8 max_attempts,
-- $9 run_ats (NULL: now), $10 deadlines, $11 labels, $12 batch_ids, $13 idempotency keys, $14 fingerprints, $15 inputs,
-- $16 weights of their owners (NULL: as they were), $17 uploads that their inputs name, $18 give_backs to begin with,
-- $19 how long to wait for others' locks at most, as `lock_timeout` (NULL: as the session does), $20 traceparents
WITH given AS MATERIALIZED (
    SELECT g.*, nextval('jobs_seq') AS seq, coalesce(g.gate, now()) AS run_at
    FROM (
        SELECT CASE WHEN $19::text IS NOT NULL THEN set_config('lock_timeout', $19, true) END
    ) AS patience
    CROSS JOIN unnest(
        $1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::smallint[], $8::smallint[],
        $9::timestamptz[], $10::timestamptz[], $11::jsonb[], $12::uuid[], $13::text[], $14::bytea[], $15::bytea[],
        $16::float8[], $17::uuid[], $18::smallint[], $20::text[]
    ) AS g (
        id, owner_service, owner_ref, task_type, model_profile, queue, priority, max_attempts, gate, deadline_at,
        labels, batch_id, idempotency_key, fingerprint, input, weight, upload_id, give_backs, traceparent
    )
), detail AS (
    INSERT INTO job_details (
        job_id, seq, created_at, owner_service, owner_ref, task_type, model_profile, queue, priority, labels, batch_id,
        idempotency_key, fingerprint
    )
    SELECT
        id, seq, now(), owner_service, owner_ref, task_type, model_profile, queue, priority, labels, batch_id,
        idempotency_key, fingerprint
    FROM given
    ORDER BY owner_service, idempotency_key, seq  -- all in the same order: two batches must not wait for each other
    ON CONFLICT DO NOTHING
    RETURNING job_id
), job AS (
    INSERT INTO jobs (
        id, seq, status, priority, level, queue, owner_service, task_type, model_profile, max_attempts, give_backs,
        run_at, deadline_at, due, created_at, updated_at
    )
    SELECT
        g.id, g.seq, 'pending', g.priority, g.priority, g.queue, g.owner_service, g.task_type, g.model_profile,
        g.max_attempts, g.give_backs, g.run_at, g.deadline_at, g.run_at <= now(), now(), now()
    FROM given AS g
    JOIN detail ON detail.job_id = g.id
    RETURNING id, seq, run_at, due, updated_at, line, level, owner_service
), line AS (
    INSERT INTO lines (name)
    SELECT DISTINCT job.line FROM job
    WHERE NOT EXISTS (SELECT FROM lines AS l WHERE l.name = job.line)
    ORDER BY 1
    ON CONFLICT DO NOTHING
), lane AS (
    -- Writes nothing where the owner's lane is there, which is nearly always.
    INSERT INTO lanes AS n (line, level, owner_service, weight)
    SELECT
        job.line, job.level, job.owner_service,
        coalesce(
            max(g.weight),
            (
                SELECT max(k.weight) FROM lanes AS k
                WHERE k.line = job.line
                  AND k.owner_service = job.owner_service
            ),
            1
        )
    FROM job
    JOIN given AS g ON g.id = job.id
    WHERE NOT EXISTS (
        SELECT FROM lanes AS k
        WHERE k.line = job.line
          AND k.level = job.level
          AND k.owner_service = job.owner_service
          AND k.weight = coalesce(g.weight, k.weight)
    )
    GROUP BY 1, 2, 3
    ORDER BY 1, 2, 3
    ON CONFLICT (line, level, owner_service) DO UPDATE SET weight = excluded.weight
), upload AS (
    -- The constraint refuses an upload that is not there, or is another owner's, and keeps it from being removed now.
    INSERT INTO upload_jobs (job_id, upload_id, owner_service)
    SELECT g.id, g.upload_id, g.owner_service
    FROM given AS g
    JOIN detail ON detail.job_id = g.id
    WHERE g.upload_id IS NOT NULL
), body AS (
    INSERT INTO job_inputs (job_id, input, traceparent)
    SELECT g.id, g.input, g.traceparent
    FROM given AS g
    JOIN detail ON detail.job_id = g.id
), label AS (
    INSERT INTO job_labels (name, value, created_at, seq, job_id)
    SELECT each.key, each.value, now(), g.seq, g.id
    FROM given AS g
    JOIN detail ON detail.job_id = g.id
    CROSS JOIN LATERAL jsonb_each_text(g.labels) AS each
)
SELECT id, seq, run_at, due, updated_at FROM job
