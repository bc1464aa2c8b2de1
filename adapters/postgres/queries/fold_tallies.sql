-- Scheduler, every second: add up what statements noted, so that reading it stays cheap. $1 most at once
-- Jobs that became final are also kept by when, in parts of ten seconds, for the throughput of the last hour.
WITH noted AS (
    DELETE FROM job_count_changes
    WHERE ctid = ANY (ARRAY (SELECT c.ctid FROM job_count_changes AS c LIMIT $1 FOR UPDATE SKIP LOCKED))
    RETURNING *
), counted AS (
    INSERT INTO job_counts AS t (
        owner_service, queue, task_type, model_profile, priority, status, due, error_code, jobs
    )
    SELECT owner_service, queue, task_type, model_profile, priority, status, due, error_code, sum(jobs)
    FROM noted
    GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
    ORDER BY 1, 2, 3, 4, 5, 6, 7, 8
    ON CONFLICT (owner_service, queue, task_type, model_profile, priority, status, due, error_code) DO UPDATE
    SET jobs = t.jobs + excluded.jobs
), finished AS (
    INSERT INTO jobs_finished AS t (since, owner_service, status, jobs)
    SELECT to_timestamp(floor(extract(epoch FROM at) / 10) * 10), owner_service, status, sum(jobs)
    FROM noted
    WHERE jobs > 0
      AND status IN ('completed', 'failed', 'cancelled')
    GROUP BY 1, 2, 3
    ORDER BY 1, 2, 3
    ON CONFLICT (since, owner_service, status) DO UPDATE SET jobs = t.jobs + excluded.jobs
), old AS (
    DELETE FROM jobs_finished WHERE since < now() - interval '2 hours'
), empty AS (
    DELETE FROM job_counts WHERE jobs = 0
      AND NOT EXISTS (
          SELECT FROM noted AS n
          WHERE (n.owner_service, n.queue, n.task_type, n.model_profile, n.priority, n.status, n.due, n.error_code)
              = (job_counts.owner_service, job_counts.queue, job_counts.task_type, job_counts.model_profile,
                 job_counts.priority, job_counts.status, job_counts.due, job_counts.error_code)
      )
)
SELECT count(*) AS changes FROM noted
