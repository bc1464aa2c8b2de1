-- The levels of a line that have a job to be claimed: the most urgent first, then the others by how long theirs waits.
-- NULL where there is none. Asked for where a queue has a reserved share. p_suspects: suspects (see
-- claim_line) count on this level only; NULL: on none; 0: on all.
CREATE OR REPLACE FUNCTION heads_of_line(
    p_line text,
    p_level smallint,
    p_task_types text[],
    p_model_profiles text[],
    p_owner_services text[],
    p_sweeping boolean,
    p_suspects smallint
)
RETURNS smallint[]
LANGUAGE plpgsql
SET jit = off
SET enable_seqscan = off
SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
DECLARE
    found smallint[];
BEGIN
    WITH head AS MATERIALIZED (
        SELECT n.level, min(first.seq) AS seq
        FROM lane_names AS n
        CROSS JOIN LATERAL (
            SELECT * FROM lane_states AS s
            WHERE s.line = p_line AND s.level = n.level AND s.owner_service = n.owner_service
            ORDER BY s.turn DESC
            LIMIT 1
        ) AS s
        LEFT JOIN owners AS o ON o.owner_service = n.owner_service
        CROSS JOIN LATERAL (
            SELECT j.seq FROM jobs AS j
            WHERE j.line = p_line
              AND j.level = n.level
              AND j.owner_service = n.owner_service
              AND j.status = 'pending'
              AND j.due
              AND j.seq > CASE WHEN p_sweeping THEN 0 ELSE s.low_seq END
              AND (p_task_types IS NULL OR j.task_type = ANY (p_task_types))
              AND (p_model_profiles IS NULL OR j.model_profile = ANY (p_model_profiles))
              AND (j.deadline_at IS NULL OR j.deadline_at > now() OR j.started_at IS NOT NULL)
              AND (j.crashes < 2 OR p_suspects = 0 OR j.level = p_suspects)
            ORDER BY j.seq
            LIMIT 1
        ) AS first
        WHERE n.line = p_line
          AND (p_level IS NULL OR n.level = p_level)
          AND (p_owner_services IS NULL OR n.owner_service = ANY (p_owner_services))
          AND (o.max_running IS NULL OR running_of(o.owner_service) < o.max_running)
        GROUP BY n.level
    )
    SELECT array_agg(h.level ORDER BY h.level > (SELECT min(top.level) FROM head AS top), h.seq) INTO found
    FROM head AS h;
    RETURN found;
END
$$
