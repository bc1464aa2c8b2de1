-- Statistics: for how long the first in line of each queue (or kind) and priority has been due; the longest, in seconds.
WITH RECURSIVE served (queue, priority, run_at, created_at) AS (
    (
        SELECT j.queue, j.priority, j.run_at, j.created_at FROM jobs AS j
        WHERE j.status = 'pending' AND j.due AND j.queue IS NOT NULL
        ORDER BY j.queue, j.priority, j.seq
        LIMIT 1
    )
    UNION ALL
    SELECT following.*
    FROM served AS s
    CROSS JOIN LATERAL (
        SELECT j.queue, j.priority, j.run_at, j.created_at FROM jobs AS j
        WHERE j.status = 'pending' AND j.due AND j.queue IS NOT NULL AND (j.queue, j.priority) > (s.queue, s.priority)
        ORDER BY j.queue, j.priority, j.seq
        LIMIT 1
    ) AS following
), unserved (task_type, model_profile, owner_service, priority, run_at, created_at) AS (
    (
        SELECT j.task_type, j.model_profile, j.owner_service, j.priority, j.run_at, j.created_at FROM jobs AS j
        WHERE j.status = 'pending' AND j.due AND j.queue IS NULL
        ORDER BY j.task_type, j.model_profile, j.owner_service, j.priority, j.seq
        LIMIT 1
    )
    UNION ALL
    SELECT following.*
    FROM unserved AS u
    CROSS JOIN LATERAL (
        SELECT j.task_type, j.model_profile, j.owner_service, j.priority, j.run_at, j.created_at FROM jobs AS j
        WHERE j.status = 'pending' AND j.due AND j.queue IS NULL
          AND (j.task_type, j.model_profile, j.owner_service, j.priority)
            > (u.task_type, u.model_profile, u.owner_service, u.priority)
        ORDER BY j.task_type, j.model_profile, j.owner_service, j.priority, j.seq
        LIMIT 1
    ) AS following
)
SELECT max(extract(epoch FROM now() - greatest(head.run_at, head.created_at)))::double precision AS seconds
FROM (
    SELECT run_at, created_at FROM served
    UNION ALL
    SELECT run_at, created_at FROM unserved
) AS head
