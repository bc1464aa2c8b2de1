-- Free slots of lines, and correct what their runs were charged by what they cost: see `correct` in domain/order.py.
-- Runs that end together count in a mean by their own mean; a run that failed only where it took longer than was
-- charged: so much it may take. The lines must be locked.
CREATE OR REPLACE FUNCTION free_slots(
    p_lines text[],
    p_levels smallint[],
    p_owner_services text[],
    p_charges double precision[],
    p_costs double precision[],
    p_completed boolean[]
)
RETURNS void
LANGUAGE plpgsql
SET jit = off
SET enable_seqscan = off
SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
DECLARE
    f record;
BEGIN
    -- One by one: a plan for all of them at once may read every version of each that an old snapshot keeps.
    FOR f IN
        SELECT
            given.line, given.level, given.owner_service, coalesce(o.weight, n.weight) AS weight,
            sum(given.cost - given.charge) AS more,
            count(*) FILTER (WHERE given.telling) AS runs, avg(given.cost) FILTER (WHERE given.telling) AS mean
        FROM (
            SELECT g.*, g.completed OR g.cost > g.charge AS telling
            FROM unnest(p_lines, p_levels, p_owner_services, p_charges, p_costs, p_completed)
                AS g (line, level, owner_service, charge, cost, completed)
        ) AS given
        JOIN lane_names AS n
          ON n.line = given.line AND n.level = given.level AND n.owner_service = given.owner_service
        LEFT JOIN owners AS o ON o.owner_service = given.owner_service
        GROUP BY 1, 2, 3, 4
        ORDER BY 1, 2, 3
    LOOP
        UPDATE lane_states AS s
        SET changes = s.changes + 1,
            vtime = s.vtime + f.more / f.weight,
            mean = CASE WHEN f.runs > 0 THEN f.mean + coalesce(s.mean - f.mean, 0) * power(0.8, f.runs) ELSE s.mean END
        WHERE s.line = f.line
          AND s.level = f.level
          AND s.owner_service = f.owner_service
          AND s.turn = (
              SELECT k.turn FROM lane_states AS k
              WHERE k.line = f.line AND k.level = f.level AND k.owner_service = f.owner_service
              ORDER BY k.turn DESC
              LIMIT 1
          );
    END LOOP;
    FOR f IN
        SELECT
            given.line, count(*) AS slots,
            count(*) FILTER (WHERE given.telling) AS runs, avg(given.cost) FILTER (WHERE given.telling) AS mean
        FROM (
            SELECT g.*, g.completed OR g.cost > g.charge AS telling
            FROM unnest(p_lines, p_charges, p_costs, p_completed) AS g (line, charge, cost, completed)
        ) AS given
        GROUP BY 1
        ORDER BY 1
    LOOP
        UPDATE line_states AS s
        SET changes = s.changes + 1,
            busy = greatest(s.busy - f.slots, 0),
            mean = CASE WHEN f.runs > 0 THEN f.mean + coalesce(s.mean - f.mean, 0) * power(0.8, f.runs) ELSE s.mean END
        WHERE s.line = f.line
          AND s.turn = (SELECT k.turn FROM line_states AS k WHERE k.line = f.line ORDER BY k.turn DESC LIMIT 1);
    END LOOP;
END
$$
