-- Claim over HTTP: the most urgent due jobs among those that match, of any queue and of none. NULL matches any.
-- Each line gives by its own rule. Between lines the more urgent job goes first, then the one that has waited longer.
-- All of the lines are locked in the order of their names, then all of their owners whose running jobs are limited: two
-- claims never wait for each other in a circle.
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
    -- Of each line that is a queue, where kinds are asked for: whose jobs match, and how many. It is not read further.
    matches jsonb;
    best record;
    claimed uuid[] := '{}';
    got uuid[];
BEGIN
    IF p_task_types IS NOT NULL OR p_model_profiles IS NOT NULL THEN
        matches := (
            SELECT coalesce(jsonb_object_agg(m.queue, jsonb_build_object('owners', m.owners, 'jobs', m.jobs)), '{}')
            FROM (
                SELECT o.queue, array_agg(o.owner_service) AS owners, sum(o.jobs) AS jobs
                FROM (
                    SELECT c.queue, c.owner_service, sum(c.jobs) AS jobs
                    FROM (
                        SELECT owner_service, queue, task_type, model_profile, due, jobs FROM job_counts
                        UNION ALL
                        SELECT owner_service, queue, task_type, model_profile, due, jobs FROM job_count_changes
                    ) AS c
                    WHERE c.due
                      AND c.queue <> ''
                      AND (p_task_types IS NULL OR c.task_type = ANY (p_task_types))
                      AND (p_model_profiles IS NULL OR c.model_profile = ANY (p_model_profiles))
                      AND (p_owner_services IS NULL OR c.owner_service = ANY (p_owner_services))
                    GROUP BY c.queue, c.owner_service
                    HAVING sum(c.jobs) > 0
                ) AS o
                GROUP BY o.queue
            ) AS m
        );
    END IF;
    candidates := ARRAY (
        SELECT line.name
        FROM (
            SELECT DISTINCT n.line AS name FROM lane_names AS n
            WHERE (p_owner_services IS NULL OR n.owner_service = ANY (p_owner_services))
              AND (p_queues IS NULL OR n.line = ANY (p_queues))
        ) AS line
        LEFT JOIN queues AS q ON q.name = line.name
        WHERE q.paused IS NOT TRUE
          AND q.stopped IS NOT TRUE
          AND q.circuit_state IS DISTINCT FROM 'open'
          AND CASE
              -- A line without a queue is named for its kind, with a space between task type and profile.
              WHEN strpos(line.name, ' ') > 0 THEN
                  (p_task_types IS NULL OR split_part(line.name, ' ', 1) = ANY (p_task_types))
                  AND (p_model_profiles IS NULL OR split_part(line.name, ' ', 2) = ANY (p_model_profiles))
              ELSE matches IS NULL OR matches ? line.name
          END
          AND EXISTS (
              SELECT FROM lane_names AS n
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
          )
    );
    PERFORM FROM line_names AS l WHERE l.name = ANY (candidates) ORDER BY l.name FOR UPDATE;
    PERFORM FROM owners AS o
    WHERE o.max_running IS NOT NULL
      AND o.owner_service IN (SELECT n.owner_service FROM lane_names AS n WHERE n.line = ANY (candidates))
    ORDER BY o.owner_service
    FOR UPDATE;

    WHILE cardinality(claimed) < p_limit AND cardinality(candidates) > 0 LOOP
        best := NULL;
        IF cardinality(candidates) > 1 THEN
            WITH lane AS MATERIALIZED (
                SELECT
                    n.line, n.level, n.owner_service,
                    CASE
                        WHEN clock_timestamp() - l.swept_at > greatest(interval '1 second', 20 * l.sweep_took) THEN 0
                        ELSE s.low_seq
                    END AS low,
                    (
                        SELECT o.max_running - running_of(o.owner_service) FROM owners AS o
                        WHERE o.owner_service = n.owner_service
                          AND o.max_running IS NOT NULL
                    ) AS spare
                FROM lane_names AS n
                CROSS JOIN LATERAL (
                    SELECT * FROM lane_states AS s
                    WHERE s.line = n.line AND s.level = n.level AND s.owner_service = n.owner_service
                    ORDER BY s.turn DESC
                    LIMIT 1
                ) AS s
                CROSS JOIN LATERAL (
                    SELECT * FROM line_states AS l WHERE l.line = n.line ORDER BY l.turn DESC LIMIT 1
                ) AS l
                WHERE n.line = ANY (candidates)
                  AND (p_owner_services IS NULL OR n.owner_service = ANY (p_owner_services))
                  AND (matches IS NULL OR strpos(n.line, ' ') > 0
                       OR matches -> n.line -> 'owners' ? n.owner_service)
            ), head AS MATERIALIZED (
                SELECT n.line, n.level, n.owner_service, n.spare, first.seq
                FROM lane AS n
                CROSS JOIN LATERAL (
                    SELECT j.seq FROM jobs AS j
                    WHERE j.line = n.line
                      AND j.level = n.level
                      AND j.owner_service = n.owner_service
                      AND j.status = 'pending'
                      AND j.due
                      AND j.seq > n.low
                      AND (p_task_types IS NULL OR j.task_type = ANY (p_task_types))
                      AND (p_model_profiles IS NULL OR j.model_profile = ANY (p_model_profiles))
                      AND (j.deadline_at IS NULL OR j.deadline_at > now() OR j.started_at IS NOT NULL)
                    ORDER BY j.seq
                    LIMIT 1
                ) AS first
                WHERE n.spare IS NULL
                   OR n.spare > 0
            ), first AS (
                SELECT head.line, head.level, coalesce(q.reserved_share, 0) > 0 AS shared
                FROM head
                LEFT JOIN queues AS q ON q.name = head.line
                ORDER BY head.level, head.seq
                LIMIT 1
            ), other AS (
                SELECT min(head.seq) AS seq
                FROM head
                JOIN first ON first.line <> head.line AND first.level = head.level
            )
            -- As many as come before another line's first; with a reserved share each pick may change who is next.
            SELECT
                first.line,
                CASE WHEN NOT first.shared THEN first.level END AS level,
                CASE
                    WHEN first.shared THEN 1
                    ELSE (
                        SELECT sum(before.jobs)
                        FROM head
                        CROSS JOIN LATERAL (
                            SELECT count(*) AS jobs
                            FROM (
                                SELECT FROM jobs AS j
                                WHERE j.line = head.line
                                  AND j.level = head.level
                                  AND j.owner_service = head.owner_service
                                  AND j.status = 'pending'
                                  AND j.due
                                  AND j.seq >= head.seq
                                  AND j.seq < coalesce((SELECT other.seq FROM other), 9223372036854775807)
                                  AND (p_task_types IS NULL OR j.task_type = ANY (p_task_types))
                                  AND (p_model_profiles IS NULL OR j.model_profile = ANY (p_model_profiles))
                                  AND (j.deadline_at IS NULL OR j.deadline_at > now() OR j.started_at IS NOT NULL)
                                LIMIT least(p_limit, head.spare)
                            ) AS waiting
                        ) AS before
                        WHERE head.line = first.line
                          AND head.level = first.level
                    )
                END AS jobs
            INTO best
            FROM first;
        END IF;
        IF best IS NULL THEN
            SELECT candidates[1] AS line, NULL::smallint AS level, p_limit::numeric AS jobs INTO best;
        END IF;
        got := claim_line(
            best.line, best.level, p_task_types, p_model_profiles,
            CASE
                WHEN matches IS NULL OR strpos(best.line, ' ') > 0 THEN p_owner_services
                ELSE ARRAY (SELECT jsonb_array_elements_text(matches -> best.line -> 'owners'))
            END,
            p_worker_id, p_lease, true, NULL,
            least(
                p_limit - cardinality(claimed),
                greatest(best.jobs, 1)::integer,
                CASE WHEN strpos(best.line, ' ') = 0 THEN (matches -> best.line -> 'jobs')::integer END
            )
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
