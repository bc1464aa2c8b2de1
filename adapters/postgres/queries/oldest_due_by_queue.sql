-- Statistics: for how long the first in line of each owner, in each line and at each level, has been due; the longest
-- of each queue, in seconds.
SELECT
    CASE WHEN strpos(n.line, ' ') = 0 THEN n.line END AS queue,
    max(extract(epoch FROM now() - greatest(head.run_at, head.created_at)))::double precision AS seconds
FROM lane_names AS n
CROSS JOIN LATERAL (
    SELECT s.low_seq FROM lane_states AS s
    WHERE s.line = n.line AND s.level = n.level AND s.owner_service = n.owner_service
    ORDER BY s.turn DESC
    LIMIT 1
) AS s
CROSS JOIN LATERAL (
    SELECT j.run_at, j.created_at FROM jobs AS j
    WHERE j.line = n.line
      AND j.level = n.level
      AND j.owner_service = n.owner_service
      AND j.status = 'pending'
      AND j.due
      AND j.seq > s.low_seq
    ORDER BY j.seq
    LIMIT 1
) AS head
GROUP BY 1
