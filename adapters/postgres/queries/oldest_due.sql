-- Statistics: for how long the first in line of each owner, in each line and at each level, has been due; the longest,
-- in seconds.
SELECT max(extract(epoch FROM now() - greatest(head.run_at, head.created_at)))::double precision AS seconds
FROM lanes AS n
CROSS JOIN LATERAL (
    SELECT j.run_at, j.created_at FROM jobs AS j
    WHERE j.line = n.line
      AND j.level = n.level
      AND j.owner_service = n.owner_service
      AND j.status = 'pending'
      AND j.due
      AND j.seq > n.low_seq
    ORDER BY j.seq
    LIMIT 1
) AS head
