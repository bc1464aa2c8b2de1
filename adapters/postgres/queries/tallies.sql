-- Statistics: how many jobs there are of each kind; what was counted, and what has changed since.
SELECT
    owner_service, nullif(queue, '') AS queue, task_type, model_profile, priority, status, due,
    nullif(error_code, '') AS error_code, sum(jobs)::bigint AS jobs
FROM (
    SELECT * FROM job_counts
    UNION ALL
    SELECT owner_service, queue, task_type, model_profile, priority, status, due, error_code, jobs
    FROM job_count_changes
) AS counted
GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
HAVING sum(jobs) <> 0
