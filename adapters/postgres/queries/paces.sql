-- Estimates of waiting: how long runs of each kind took lately, and how far back that looks where many ended.
WITH lately AS MATERIALIZED (
    SELECT r.job_id, r.started_at, r.ended_at
    FROM runs AS r
    WHERE r.ended_at > now() - interval '5 minutes'
    ORDER BY r.ended_at DESC
    LIMIT 1000
), looked AS (
    SELECT
        CASE WHEN count(*) < 1000 THEN 300 ELSE greatest(extract(epoch FROM now() - min(ended_at)), 0.001) END
            AS seconds
    FROM lately
)
SELECT
    j.queue, j.task_type, j.model_profile, count(*) AS runs,
    avg(extract(epoch FROM lately.ended_at - lately.started_at))::double precision AS run_seconds,
    looked.seconds::double precision AS within
FROM lately
CROSS JOIN looked
JOIN jobs AS j ON j.id = lately.job_id
GROUP BY j.queue, j.task_type, j.model_profile, looked.seconds
