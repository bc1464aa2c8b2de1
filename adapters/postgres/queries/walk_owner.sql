-- Pruning: an owner's jobs in the order of their creation, of those that may be old enough to go.
-- $1 owner_service, $2 created_at and $3 seq of the last one that was looked at, $4 how old at least, $5 most at once
WITH stretch AS MATERIALIZED (
    SELECT d.job_id
    FROM job_details AS d
    WHERE d.owner_service = $1
      AND (d.created_at, d.seq) > ($2::timestamptz, $3::bigint)
      AND d.created_at <= now() - $4::interval
    ORDER BY d.created_at, d.seq
    LIMIT $5::bigint
)
SELECT now() AS now, j.id, j.owner_service, j.status, j.number, j.created_at, j.seq, j.finished_at
FROM jobs AS j
WHERE j.id = ANY (ARRAY (SELECT stretch.job_id FROM stretch))
ORDER BY j.created_at, j.seq
