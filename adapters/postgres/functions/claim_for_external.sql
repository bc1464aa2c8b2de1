-- Claim over HTTP: the most urgent due jobs among those that match, of any queue and of none. NULL matches any.
-- Candidates are read without locks, line by line, and locked in their common order; the caller gets fewer than it
-- asked for only when there are no more, since a round that lost its candidates to others looks deeper.
-- Its plan is a general one: one made for rare values would look for them among all jobs, and sort. Each line is read
-- in its order, to its last match.
CREATE OR REPLACE FUNCTION claim_for_external(
    p_worker_id text,
    p_lease interval,
    p_limit integer,
    p_task_types text[],
    p_model_profiles text[],
    p_owner_services text[],
    p_queues text[]
)
RETURNS TABLE (job_id uuid, lease_token uuid)
LANGUAGE plpgsql
SET jit = off
SET enable_seqscan = off
SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
DECLARE
    depth integer := p_limit + 16;
    chosen uuid[] := '{}';
    locked uuid[];
    candidates uuid[];
BEGIN
    LOOP
        WITH RECURSIVE queue (name) AS (
            (
                SELECT j.queue FROM jobs AS j
                WHERE j.status = 'pending' AND j.due AND j.queue IS NOT NULL AND p_queues IS NULL
                ORDER BY j.queue
                LIMIT 1
            )
            UNION ALL
            SELECT (
                SELECT j.queue FROM jobs AS j
                WHERE j.status = 'pending' AND j.due AND j.queue > q.name
                ORDER BY j.queue
                LIMIT 1
            )
            FROM queue AS q
            WHERE q.name IS NOT NULL
        ), kind (task_type, model_profile, owner_service) AS (
            (
                SELECT j.task_type, j.model_profile, j.owner_service FROM jobs AS j
                WHERE j.status = 'pending' AND j.due AND j.queue IS NULL AND p_queues IS NULL
                ORDER BY j.task_type, j.model_profile, j.owner_service
                LIMIT 1
            )
            UNION ALL
            SELECT following.*
            FROM kind AS k
            CROSS JOIN LATERAL (
                SELECT j.task_type, j.model_profile, j.owner_service FROM jobs AS j
                WHERE j.status = 'pending' AND j.due AND j.queue IS NULL
                  AND (j.task_type, j.model_profile, j.owner_service)
                    > (k.task_type, k.model_profile, k.owner_service)
                ORDER BY j.task_type, j.model_profile, j.owner_service
                LIMIT 1
            ) AS following
        ), matching AS MATERIALIZED (
            SELECT c.queue, sum(c.jobs)::bigint AS jobs
            FROM (
                SELECT owner_service, queue, task_type, model_profile, due, jobs FROM job_counts
                UNION ALL
                SELECT owner_service, queue, task_type, model_profile, due, jobs FROM job_count_changes
            ) AS c
            WHERE (p_task_types IS NOT NULL OR p_model_profiles IS NOT NULL OR p_owner_services IS NOT NULL)
              AND c.due
              AND (p_task_types IS NULL OR c.task_type = ANY (p_task_types))
              AND (p_model_profiles IS NULL OR c.model_profile = ANY (p_model_profiles))
              AND (p_owner_services IS NULL OR c.owner_service = ANY (p_owner_services))
            GROUP BY c.queue
        ), promising AS (
            -- A long queue must not be searched beyond its last match, or without one.
            SELECT q.name, m.jobs
            FROM (SELECT name FROM queue UNION SELECT unnest(p_queues)) AS q
            LEFT JOIN matching AS m ON m.queue = q.name
            WHERE m.jobs > 0
               OR (p_task_types IS NULL AND p_model_profiles IS NULL AND p_owner_services IS NULL)
        ), candidate AS (
            SELECT c.*
            FROM promising AS q
            CROSS JOIN LATERAL (
                SELECT j.id, j.priority, j.seq FROM jobs AS j
                WHERE j.queue = q.name AND j.status = 'pending' AND j.due
                  AND (p_task_types IS NULL OR j.task_type = ANY (p_task_types))
                  AND (p_model_profiles IS NULL OR j.model_profile = ANY (p_model_profiles))
                  AND (p_owner_services IS NULL OR j.owner_service = ANY (p_owner_services))
                ORDER BY j.priority, j.seq
                LIMIT least(depth, q.jobs)
            ) AS c
            UNION ALL
            SELECT c.*
            FROM kind AS k
            CROSS JOIN LATERAL (
                SELECT j.id, j.priority, j.seq FROM jobs AS j
                WHERE j.queue IS NULL AND j.status = 'pending' AND j.due
                  AND j.task_type = k.task_type
                  AND j.model_profile = k.model_profile
                  AND j.owner_service = k.owner_service
                ORDER BY j.priority, j.seq
                LIMIT depth
            ) AS c
            WHERE (p_task_types IS NULL OR k.task_type = ANY (p_task_types))
              AND (p_model_profiles IS NULL OR k.model_profile = ANY (p_model_profiles))
              AND (p_owner_services IS NULL OR k.owner_service = ANY (p_owner_services))
        )
        SELECT array_agg(first.id) INTO candidates
        FROM (SELECT c.id FROM candidate AS c ORDER BY c.priority, c.seq LIMIT depth) AS first;

        locked := ARRAY (
            SELECT j.id FROM jobs AS j
            WHERE j.id = ANY (candidates) AND j.status = 'pending' AND j.due AND j.id <> ALL (chosen)
            ORDER BY j.priority, j.seq
            LIMIT p_limit - cardinality(chosen)
            FOR UPDATE SKIP LOCKED
        );
        chosen := chosen || locked;
        EXIT WHEN cardinality(chosen) >= p_limit OR coalesce(cardinality(candidates), 0) < depth;
        depth := depth * 4;
    END LOOP;

    RETURN QUERY
    UPDATE jobs AS j
    SET status = 'running',
        number = j.number + 1,
        lease_token = gen_random_uuid(),
        lease_expires_at = now() + p_lease,
        lease_timeout = p_lease,
        worker_id = p_worker_id,
        waited_ms = waited_ms(j.run_at, j.created_at, now()),
        started_at = now(),
        updated_at = now()
    WHERE j.id = ANY (chosen)
    RETURNING j.id, j.lease_token;
END
$$
