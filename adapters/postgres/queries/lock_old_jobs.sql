-- Pruning: those of these jobs that are still as they were read, for this transaction to erase. $1 ids, $2 their numbers
-- Not one to which anything has happened since, and not one that somebody else holds: nobody waits for the other here.
SELECT j.id
FROM jobs AS j
JOIN unnest($1::uuid[], $2::integer[]) AS given (id, number) ON given.id = j.id
WHERE j.id = ANY ($1)
  AND j.number = given.number
  AND j.status IN ('completed', 'failed', 'cancelled')
FOR UPDATE OF j SKIP LOCKED
