-- How many slots an owner has taken, over all lines: its running jobs, and those whose calls are still being closed.
CREATE OR REPLACE FUNCTION running_of(p_owner_service text)
RETURNS integer
LANGUAGE sql
STABLE
AS $$
    SELECT (
        (SELECT count(*) FROM jobs AS j WHERE j.status = 'running' AND j.owner_service = p_owner_service)
        + (SELECT count(*) FROM closing_slots AS c WHERE c.owner_service = p_owner_service)
    )::integer
$$
