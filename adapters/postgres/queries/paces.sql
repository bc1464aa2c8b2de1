-- Estimates of waiting: how long runs of each kind took lately.
SELECT
    j.queue, j.task_type, j.model_profile, count(*) AS runs,
    avg(extract(epoch FROM lately.ended_at - lately.started_at))::double precision AS run_seconds
FROM (
    SELECT r.job_id, r.started_at, r.ended_at
    FROM runs AS r
    WHERE r.ended_at > now() - interval '5 minutes'
    ORDER BY r.ended_at DESC
    LIMIT 2000
) AS lately
JOIN jobs AS j ON j.id = lately.job_id
GROUP BY j.queue, j.task_type, j.model_profile
