-- Pruning: final jobs of one state in the order of their creation, of those that may be old enough to go.
-- $1 status, $2 created_at and $3 seq of the last one that was looked at, $4 how old at least, $5 most at once
SELECT now() AS now, j.id, j.owner_service, j.status, j.number, j.created_at, j.seq, j.finished_at
FROM jobs AS j
WHERE j.status = $1
  AND (j.created_at, j.seq) > ($2::timestamptz, $3::bigint)
  AND j.created_at <= now() - $4::interval
ORDER BY j.created_at, j.seq
LIMIT $5::bigint
