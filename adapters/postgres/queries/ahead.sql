-- Position: due jobs that stand before this one in its queue, counted up to $4. $1 queue, $2 priority, $3 seq
SELECT count(*) AS jobs
FROM (
    SELECT FROM jobs AS j
    WHERE j.queue = $1
      AND j.status = 'pending'
      AND j.due
      AND (j.priority, j.seq) < ($2::smallint, $3::bigint)
    LIMIT $4
) AS before
