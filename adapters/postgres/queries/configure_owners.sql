-- What is configured of owners. $1 owner_services, $2 weights, $3 max_running, $4 whether to leave alone what is there
INSERT INTO owners AS o (owner_service, weight, max_running)
SELECT given.* FROM unnest($1::text[], $2::float8[], $3::integer[]) AS given (owner_service, weight, max_running)
ORDER BY 1
ON CONFLICT (owner_service) DO UPDATE
SET weight = excluded.weight, max_running = excluded.max_running
WHERE NOT $4::boolean
  AND (o.weight, o.max_running) IS DISTINCT FROM (excluded.weight, excluded.max_running)
