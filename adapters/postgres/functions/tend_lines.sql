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
    wrong integer;
BEGIN
    PERFORM FROM lines AS l ORDER BY l.name FOR UPDATE;

    -- One with a weight of its own is kept: what comes back to it, from a run or a scheduled time, does not tell it.
    DELETE FROM lanes AS n
    WHERE n.asleep
      AND n.weight = 1
      AND n.used_at < now() - p_unused
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
    INSERT INTO lanes (line, level, owner_service, low_seq)
    SELECT k.line, k.level, k.owner_service, k.seq - 1 FROM lane AS k
    ON CONFLICT DO NOTHING;
    INSERT INTO lines (name) SELECT DISTINCT n.line FROM lanes AS n ON CONFLICT DO NOTHING;

    WITH counted AS (
        SELECT taken.line, count(*) AS slots
        FROM (
            SELECT j.line FROM jobs AS j WHERE j.status = 'running'
            UNION ALL
            SELECT c.line FROM closing_slots AS c
        ) AS taken
        GROUP BY taken.line
    ), corrected AS (
        UPDATE lines AS l
        SET busy = coalesce((SELECT c.slots FROM counted AS c WHERE c.line = l.name), 0)
        WHERE l.busy <> coalesce((SELECT c.slots FROM counted AS c WHERE c.line = l.name), 0)
        RETURNING l.name
    )
    SELECT count(*) INTO wrong FROM corrected;
    RETURN wrong;
END
$$
