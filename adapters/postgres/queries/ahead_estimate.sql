-- Position where it is too far to count: all that is more urgent, and of its equals the share that its place among the
-- first and the last of them says. $1 queue (NULL: of this kind), $2 task_type, $3 model_profile, $4 priority, $5 seq
WITH line AS (
    SELECT c.priority, sum(c.jobs) AS jobs
    FROM (
        SELECT * FROM job_counts
        UNION ALL
        SELECT owner_service, queue, task_type, model_profile, priority, status, due, error_code, jobs
        FROM job_count_changes
    ) AS c
    WHERE c.due
      AND c.priority <= $4::smallint
      AND c.queue = coalesce($1, '')
      AND ($1 IS NOT NULL OR (c.task_type = $2 AND c.model_profile = $3))
    GROUP BY c.priority
), ends AS (
    SELECT
        (
            SELECT j.seq FROM jobs AS j
            WHERE j.queue = $1 AND j.status = 'pending' AND j.due AND j.priority = $4::smallint
            ORDER BY j.seq
            LIMIT 1
        ) AS first,
        (
            SELECT j.seq FROM jobs AS j
            WHERE j.queue = $1 AND j.status = 'pending' AND j.due AND j.priority = $4::smallint
            ORDER BY j.seq DESC
            LIMIT 1
        ) AS last
)
SELECT
    coalesce(sum(line.jobs) FILTER (WHERE line.priority < $4::smallint), 0)::bigint
    + (
        coalesce(sum(line.jobs) FILTER (WHERE line.priority = $4::smallint), 0)
        * CASE WHEN ends.last > ends.first THEN ($5::bigint - ends.first)::numeric / (ends.last - ends.first) ELSE 1 END
    )::bigint AS jobs
FROM ends
LEFT JOIN line ON true
GROUP BY ends.first, ends.last
