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
BEGIN
    WITH freed AS MATERIALIZED (
        SELECT f.*, f.completed OR f.cost > f.charge AS telling
        FROM unnest(p_lines, p_levels, p_owner_services, p_charges, p_costs, p_completed)
            AS f (line, level, owner_service, charge, cost, completed)
    ), lane AS (
        UPDATE lanes AS n
        SET vtime = n.vtime + f.more / coalesce(o.weight, n.weight),
            mean = CASE WHEN f.runs > 0 THEN f.mean + coalesce(n.mean - f.mean, 0) * power(0.8, f.runs) ELSE n.mean END
        FROM (
            SELECT
                line, level, owner_service, sum(cost - charge) AS more,
                count(*) FILTER (WHERE telling) AS runs, avg(cost) FILTER (WHERE telling) AS mean
            FROM freed
            GROUP BY line, level, owner_service
        ) AS f
        LEFT JOIN owners AS o ON o.owner_service = f.owner_service
        WHERE n.line = ANY (p_lines)
          AND n.line = f.line
          AND n.level = f.level
          AND n.owner_service = f.owner_service
    )
    UPDATE lines AS l
    SET busy = greatest(l.busy - f.slots, 0),
        mean = CASE WHEN f.runs > 0 THEN f.mean + coalesce(l.mean - f.mean, 0) * power(0.8, f.runs) ELSE l.mean END
    FROM (
        SELECT
            line, count(*) AS slots,
            count(*) FILTER (WHERE telling) AS runs, avg(cost) FILTER (WHERE telling) AS mean
        FROM freed
        GROUP BY line
    ) AS f
    WHERE l.name = ANY (p_lines)
      AND l.name = f.line;
END
$$
