-- Operators: set or clear the flags of queues. $1 names, $2 paused (NULL: as it is), $3 stopped
INSERT INTO queues AS q (name, paused, stopped)
SELECT given.name, coalesce($2::boolean, false), coalesce($3::boolean, false)
FROM unnest($1::text[]) AS given (name)
ORDER BY 1
ON CONFLICT (name) DO UPDATE
SET paused = coalesce($2, q.paused), stopped = coalesce($3, q.stopped)
