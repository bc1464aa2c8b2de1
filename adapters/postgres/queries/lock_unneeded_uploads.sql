-- Pruning: choose uploads that nobody seems to need, and keep new jobs from using them until the end of the transaction.
-- One that a new job is being stored for at this moment is passed over: nobody waits for the other here.
-- $1 how long unused ones and those of failed jobs are kept, $2 how many at most
SELECT u.id
FROM uploads AS u
WHERE CASE
    WHEN EXISTS (SELECT FROM upload_jobs AS l WHERE l.upload_id = u.id) THEN
        NOT EXISTS (
            SELECT FROM upload_jobs AS l
            JOIN jobs AS j ON j.id = l.job_id
            WHERE l.upload_id = u.id
              AND j.status IN ('pending', 'running')
        )
        AND NOT (
            EXISTS (
                SELECT FROM upload_jobs AS l
                JOIN jobs AS j ON j.id = l.job_id
                WHERE l.upload_id = u.id
                  AND j.status = 'failed'
            )
            AND EXISTS (
                SELECT FROM upload_jobs AS l
                JOIN jobs AS j ON j.id = l.job_id
                WHERE l.upload_id = u.id
                  AND j.finished_at > now() - $1::interval
            )
        )
    ELSE u.created_at <= now() - $1::interval
END
ORDER BY u.id
LIMIT $2::bigint
FOR UPDATE SKIP LOCKED
