-- Circuits: whether a run of the queue has completed since then. $1 queue, $2 since
SELECT EXISTS (
    SELECT FROM runs AS r
    WHERE r.ended_at > $2
      AND r.outcome = 'completed'
      AND EXISTS (SELECT FROM jobs AS j WHERE j.id = r.job_id AND j.queue = $1)
) AS completed
