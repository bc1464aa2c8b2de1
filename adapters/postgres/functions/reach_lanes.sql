-- Jobs have come to wait in these lanes: see that the lanes are there, and are read from far enough in front.
-- Writes nothing where that is so already, as for nearly every new job.
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
BEGIN
    INSERT INTO lines (name)
    SELECT DISTINCT given.line FROM unnest(p_lines) AS given (line)
    WHERE NOT EXISTS (SELECT FROM lines AS l WHERE l.name = given.line)
    ORDER BY 1
    ON CONFLICT DO NOTHING;
    INSERT INTO lanes AS n (line, level, owner_service, low_seq, weight)
    SELECT
        given.line, given.level, given.owner_service, min(given.seq) - 1,
        -- A new one, as of a job that has aged, weighs what its owner's others do.
        coalesce(
            (
                SELECT max(k.weight) FROM lanes AS k
                WHERE k.line = given.line
                  AND k.owner_service = given.owner_service
            ),
            1
        )
    FROM unnest(p_lines, p_levels, p_owner_services, p_seqs) AS given (line, level, owner_service, seq)
    WHERE NOT EXISTS (
        SELECT FROM lanes AS k
        WHERE k.line = given.line
          AND k.level = given.level
          AND k.owner_service = given.owner_service
          AND k.low_seq < given.seq
    )
    GROUP BY 1, 2, 3
    ORDER BY 1, 2, 3
    ON CONFLICT (line, level, owner_service) DO UPDATE SET low_seq = least(n.low_seq, excluded.low_seq);
END
$$
