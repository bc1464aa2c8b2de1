-- Scheduler, now and then: set right what a crash or a race may have left of lines: lanes with jobs that were not
-- found, lanes that nobody has used for long, counts of busy slots. Returns how many counts were wrong.
CREATE OR REPLACE FUNCTION tend_lines(p_unused interval)
RETURNS integer
LANGUAGE plpgsql
SET jit = off
SET enable_seqscan = off
AS $$
#variable_conflict use_column
DECLARE
    line record;
    wrong integer;
BEGIN
    PERFORM FROM line_names AS l ORDER BY l.name FOR UPDATE;

    -- One with a weight of its own is kept: what comes back to it, from a run or a scheduled time, does not tell it.
    DELETE FROM lane_names AS n
    USING lanes AS k
    WHERE k.line = n.line
      AND k.level = n.level
      AND k.owner_service = n.owner_service
      AND k.asleep
      AND k.weight = 1
      AND k.used_at < now() - p_unused
      AND NOT EXISTS (
          SELECT FROM jobs AS j
          WHERE j.line = n.line
            AND j.level = n.level
            AND j.owner_service = n.owner_service
            AND j.status = 'pending'
            AND j.due
      );

    WITH RECURSIVE lane (line, level, owner_service, seq) AS (
        (
            SELECT j.line, j.level, j.owner_service, j.seq FROM jobs AS j
            WHERE j.status = 'pending' AND j.due
            ORDER BY j.line, j.level, j.owner_service, j.seq
            LIMIT 1
        )
        UNION ALL
        SELECT following.*
        FROM lane AS k
        CROSS JOIN LATERAL (
            SELECT j.line, j.level, j.owner_service, j.seq FROM jobs AS j
            WHERE j.status = 'pending' AND j.due
              AND (j.line, j.level, j.owner_service) > (k.line, k.level, k.owner_service)
            ORDER BY j.line, j.level, j.owner_service, j.seq
            LIMIT 1
        ) AS following
    )
    INSERT INTO lane_names (line, level, owner_service)
    SELECT k.line, k.level, k.owner_service FROM lane AS k
    ON CONFLICT DO NOTHING;
    INSERT INTO line_names (name) SELECT DISTINCT n.line FROM lane_names AS n ON CONFLICT DO NOTHING;

    wrong := 0;
    FOR line IN
        SELECT l.name, coalesce(counted.slots, 0) AS slots
        FROM lines AS l
        LEFT JOIN (
            SELECT taken.line, count(*) AS slots
            FROM (
                SELECT j.line FROM jobs AS j WHERE j.status = 'running'
                UNION ALL
                SELECT c.line FROM closing_slots AS c
            ) AS taken
            GROUP BY taken.line
        ) AS counted ON counted.line = l.name
        WHERE l.busy <> coalesce(counted.slots, 0)
    LOOP
        UPDATE line_states AS s
        SET changes = s.changes + 1, busy = line.slots
        WHERE s.line = line.name
          AND s.turn = (SELECT k.turn FROM line_states AS k WHERE k.line = line.name ORDER BY k.turn DESC LIMIT 1);
        wrong := wrong + 1;
    END LOOP;
    RETURN wrong;
END
$$
