-- Position of a job without a queue, among those of its kind, counted up to $5 per owner.
-- $1 task_type, $2 model_profile, $3 priority, $4 seq
WITH RECURSIVE owner (name) AS (
    (
        SELECT j.owner_service FROM jobs AS j
        WHERE j.queue IS NULL AND j.status = 'pending' AND j.due AND j.task_type = $1 AND j.model_profile = $2
        ORDER BY j.owner_service
        LIMIT 1
    )
    UNION ALL
    SELECT (
        SELECT j.owner_service FROM jobs AS j
        WHERE j.queue IS NULL AND j.status = 'pending' AND j.due AND j.task_type = $1 AND j.model_profile = $2
          AND j.owner_service > owner.name
        ORDER BY j.owner_service
        LIMIT 1
    )
    FROM owner
    WHERE owner.name IS NOT NULL
)
SELECT count(*) AS jobs
FROM owner
CROSS JOIN LATERAL (
    SELECT FROM jobs AS j
    WHERE j.queue IS NULL
      AND j.status = 'pending'
      AND j.due
      AND j.task_type = $1
      AND j.model_profile = $2
      AND j.owner_service = owner.name
      AND (j.priority, j.seq) < ($3::smallint, $4::bigint)
    LIMIT $5
) AS before
