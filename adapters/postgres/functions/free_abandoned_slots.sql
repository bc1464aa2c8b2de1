-- Scheduler, every second: free slots whose worker was not heard of until their lease ran out. Returns how many.
-- p_steady: as in rescue_jobs.
CREATE OR REPLACE FUNCTION free_abandoned_slots(p_steady interval)
RETURNS bigint
LANGUAGE plpgsql
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    locked text[];
    freed bigint;
BEGIN
    IF NOT has_seen(p_steady) THEN
        RETURN 0;
    END IF;
    locked := ARRAY (SELECT DISTINCT c.line FROM closing_slots AS c WHERE c.expires_at < now());
    IF cardinality(locked) = 0 THEN
        RETURN 0;
    END IF;
    PERFORM FROM line_names AS l WHERE l.name = ANY (locked) ORDER BY l.name FOR UPDATE;
    WITH gone AS (
        DELETE FROM closing_slots AS c
        WHERE c.expires_at < now()
          AND c.line = ANY (locked)
        RETURNING *
    ), slot AS (
        SELECT
            count(*) AS slots,
            free_slots(
                array_agg(g.line), array_agg(g.level), array_agg(g.owner_service), array_agg(g.charge),
                array_agg(extract(epoch FROM now() - g.started_at)::double precision), array_agg(false)
            )
        FROM gone AS g
    )
    SELECT slot.slots INTO freed FROM slot;
    RETURN freed;
END
$$
