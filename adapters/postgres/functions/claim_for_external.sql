-- Claim over HTTP: the most urgent due jobs among those that match, of any queue and of none. NULL matches any.
-- Each line gives by its own rule. Between lines the more urgent job goes first, then the one that has waited longer.
-- All of the lines are locked in the order of their names: two claims never wait for each other in a circle.
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
    candidates text[];
    best record;
    claimed uuid[] := '{}';
    got uuid[];
BEGIN
    WITH matching AS MATERIALIZED (
        -- A long queue must not be searched without a match.
        SELECT c.queue, sum(c.jobs) AS jobs
        FROM (
            SELECT owner_service, queue, task_type, model_profile, due, jobs FROM job_counts
            UNION ALL
            SELECT owner_service, queue, task_type, model_profile, due, jobs FROM job_count_changes
        ) AS c
        WHERE (p_task_types IS NOT NULL OR p_model_profiles IS NOT NULL)
          AND c.due
          AND (p_task_types IS NULL OR c.task_type = ANY (p_task_types))
          AND (p_model_profiles IS NULL OR c.model_profile = ANY (p_model_profiles))
          AND (p_owner_services IS NULL OR c.owner_service = ANY (p_owner_services))
        GROUP BY c.queue
    ), line AS (
        SELECT DISTINCT n.line AS name FROM lanes AS n
        WHERE (p_owner_services IS NULL OR n.owner_service = ANY (p_owner_services))
          AND (p_queues IS NULL OR n.line = ANY (p_queues))
    )
    SELECT array_agg(line.name) INTO candidates
    FROM line
    LEFT JOIN queues AS q ON q.name = line.name
    WHERE q.paused IS NOT TRUE
      AND q.stopped IS NOT TRUE
      AND q.circuit_state IS DISTINCT FROM 'open'
      AND CASE
          -- A line without a queue is named for its kind, with a space between task type and profile.
          WHEN strpos(line.name, ' ') > 0 THEN
              (p_task_types IS NULL OR split_part(line.name, ' ', 1) = ANY (p_task_types))
              AND (p_model_profiles IS NULL OR split_part(line.name, ' ', 2) = ANY (p_model_profiles))
          ELSE
              (p_task_types IS NULL AND p_model_profiles IS NULL)
              OR EXISTS (SELECT FROM matching AS m WHERE m.queue = line.name AND m.jobs > 0)
      END
      AND EXISTS (
          SELECT FROM lanes AS n
          CROSS JOIN LATERAL (
              SELECT FROM jobs AS j
              WHERE j.line = line.name
                AND j.level = n.level
                AND j.owner_service = n.owner_service
                AND j.status = 'pending'
                AND j.due
              LIMIT 1
          ) AS waiting
          WHERE n.line = line.name
            AND (p_owner_services IS NULL OR n.owner_service = ANY (p_owner_services))
      );
    PERFORM FROM lines AS l WHERE l.name = ANY (candidates) ORDER BY l.name FOR UPDATE;

    WHILE cardinality(claimed) < p_limit AND cardinality(candidates) > 0 LOOP
        SELECT n.line, n.level INTO best
        FROM lanes AS n
        CROSS JOIN LATERAL (
            SELECT j.seq FROM jobs AS j
            WHERE j.line = n.line
              AND j.level = n.level
              AND j.owner_service = n.owner_service
              AND j.status = 'pending'
              AND j.due
              AND j.seq > n.low_seq
              AND (p_task_types IS NULL OR j.task_type = ANY (p_task_types))
              AND (p_model_profiles IS NULL OR j.model_profile = ANY (p_model_profiles))
            ORDER BY j.seq
            LIMIT 1
        ) AS head
        LEFT JOIN owners AS o ON o.owner_service = n.owner_service
        WHERE n.line = ANY (candidates)
          AND (p_owner_services IS NULL OR n.owner_service = ANY (p_owner_services))
          AND (o.max_running IS NULL OR running_of(o.owner_service) < o.max_running)
          AND cardinality(candidates) > 1
        ORDER BY n.level, head.seq
        LIMIT 1;
        IF NOT FOUND THEN
            SELECT candidates[1] AS line, NULL::smallint AS level INTO best;
        END IF;
        got := claim_line(
            best.line, best.level, p_task_types, p_model_profiles, p_owner_services, p_worker_id, p_lease, true,
            CASE
                WHEN cardinality(candidates) = 1 THEN p_limit - cardinality(claimed)
                ELSE greatest(1, (p_limit - cardinality(claimed)) / (2 * cardinality(candidates)))
            END
        );
        claimed := claimed || got;
        IF cardinality(got) = 0 OR cardinality(candidates) = 1 THEN
            candidates := array_remove(candidates, best.line);
        END IF;
    END LOOP;

    RETURN QUERY
    SELECT j.id, j.lease_token
    FROM unnest(claimed) WITH ORDINALITY AS c (id, place)
    JOIN jobs AS j ON j.id = c.id
    ORDER BY c.place;
END
$$
