-- Position where it is too far to count: the same rule over the counts of jobs, and of its own lane the share that
-- its place among the first and the last says. Of jobs of one lane, in the order given.
-- $1 line, $2 level, $3 owner_service, $4 seqs, $5 queue, $6 task_type, $7 model_profile
WITH counted AS MATERIALIZED (
    SELECT c.priority AS level, c.owner_service, sum(c.jobs) AS jobs
    FROM (
        SELECT * FROM job_counts
        UNION ALL
        SELECT owner_service, queue, task_type, model_profile, priority, status, due, error_code, jobs
        FROM job_count_changes
    ) AS c
    WHERE c.due
      AND c.priority <= $2::smallint
      AND c.queue = coalesce($5::text, '')
      AND ($5::text IS NOT NULL OR (c.task_type = $6::text AND c.model_profile = $7::text))
    GROUP BY c.priority, c.owner_service
), ends AS (
    SELECT
        (
            SELECT j.seq FROM jobs AS j
            WHERE j.line = $1 AND j.level = $2 AND j.owner_service = $3 AND j.status = 'pending' AND j.due
            ORDER BY j.seq
            LIMIT 1
        ) AS first,
        (
            SELECT j.seq FROM jobs AS j
            WHERE j.line = $1 AND j.level = $2 AND j.owner_service = $3 AND j.status = 'pending' AND j.due
            ORDER BY j.seq DESC
            LIMIT 1
        ) AS last
), lane AS MATERIALIZED (
    SELECT
        n.level, n.owner_service, s.vtime,
        greatest(coalesce(s.mean, l.mean, 1), 0.001) / coalesce(o.weight, n.weight) AS step,
        n.level = $2 AND n.owner_service = $3::text AS own,
        coalesce(c.jobs, 0) AS jobs
    FROM lane_names AS n
    CROSS JOIN LATERAL (SELECT * FROM line_states AS l WHERE l.line = n.line ORDER BY l.turn DESC LIMIT 1) AS l
    CROSS JOIN LATERAL (
        SELECT * FROM lane_states AS s
        WHERE s.line = n.line AND s.level = n.level AND s.owner_service = n.owner_service
        ORDER BY s.turn DESC
        LIMIT 1
    ) AS s
    LEFT JOIN owners AS o ON o.owner_service = n.owner_service
    LEFT JOIN counted AS c ON c.level = n.level AND c.owner_service = n.owner_service
    WHERE n.line = $1
      AND n.level <= $2
)
SELECT
    (
        coalesce((SELECT sum(lane.jobs) FROM lane WHERE lane.level < $2), 0)
        + coalesce(own.jobs, 0)
        + coalesce(
            (
                SELECT sum(least(lane.jobs::float8, greatest((own.start - lane.vtime) / lane.step, 0)))
                FROM lane
                WHERE lane.level = $2
                  AND NOT lane.own
            ),
            0
        )
    )::bigint AS jobs
FROM unnest($4::bigint[]) WITH ORDINALITY AS asked (seq, place)
CROSS JOIN ends
LEFT JOIN LATERAL (
    SELECT before.jobs, lane.vtime + before.jobs::float8 * lane.step AS start
    FROM lane
    CROSS JOIN LATERAL (
        SELECT lane.jobs * CASE
            WHEN ends.last > ends.first THEN (asked.seq - ends.first)::numeric / (ends.last - ends.first)
            ELSE 1
        END AS jobs
    ) AS before
    WHERE lane.own
) AS own ON true
ORDER BY asked.place
