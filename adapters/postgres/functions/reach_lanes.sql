-- Jobs have come to wait in these lanes: see that the lanes are there, and are read from far enough in front.
-- Writes nothing where that is so already, as for nearly every new job.
-- Not every caller holds the lines. So this leaves the turn as it is: whoever holds a line finds its rows by theirs.
-- And where the turn has changed while this waited for the row, it looks anew.
CREATE OR REPLACE FUNCTION reach_lanes(
    p_lines text[], p_levels smallint[], p_owner_services text[], p_seqs bigint[]
)
RETURNS void
LANGUAGE plpgsql
SET jit = off
SET enable_seqscan = off
SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
DECLARE
    given record;
    missed boolean;
BEGIN
    INSERT INTO line_names (name)
    SELECT DISTINCT g.line FROM unnest(p_lines) AS g (line)
    WHERE NOT EXISTS (SELECT FROM line_names AS n WHERE n.name = g.line)
    ORDER BY 1
    ON CONFLICT DO NOTHING;
    INSERT INTO lane_names (line, level, owner_service, weight)
    SELECT DISTINCT
        g.line, g.level, g.owner_service,
        -- A new one, as of a job that has aged, weighs what its owner's others do.
        coalesce(
            (
                SELECT max(n.weight) FROM lane_names AS n
                WHERE n.line = g.line
                  AND n.owner_service = g.owner_service
            ),
            1
        )
    FROM unnest(p_lines, p_levels, p_owner_services) AS g (line, level, owner_service)
    WHERE NOT EXISTS (
        SELECT FROM lane_names AS n
        WHERE n.line = g.line
          AND n.level = g.level
          AND n.owner_service = g.owner_service
    )
    ORDER BY 1, 2, 3
    ON CONFLICT DO NOTHING;
    LOOP
        missed := false;
        FOR given IN
            SELECT n.line, n.level, n.owner_service, n.seq - 1 AS low, s.turn
            FROM (
                SELECT g.line, g.level, g.owner_service, min(g.seq) AS seq
                FROM unnest(p_lines, p_levels, p_owner_services, p_seqs) AS g (line, level, owner_service, seq)
                GROUP BY 1, 2, 3
            ) AS n
            CROSS JOIN LATERAL (
                SELECT * FROM lane_states AS s
                WHERE s.line = n.line AND s.level = n.level AND s.owner_service = n.owner_service
                ORDER BY s.turn DESC
                LIMIT 1
            ) AS s
            WHERE s.low_seq >= n.seq
            ORDER BY 1, 2, 3
        LOOP
            UPDATE lane_states AS s
            SET low_seq = least(s.low_seq, given.low)
            WHERE s.line = given.line
              AND s.level = given.level
              AND s.owner_service = given.owner_service
              AND s.turn = given.turn;
            missed := missed OR NOT FOUND;
        END LOOP;
        EXIT WHEN NOT missed;
    END LOOP;
END
$$
