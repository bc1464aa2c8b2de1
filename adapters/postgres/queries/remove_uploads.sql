-- Removing uploads that are locked, where no job needs them that came to use them before that. Their pieces go later.
-- A reference that is being written at this moment (its job is erased) is not waited for: that upload stays for now.
-- $1 ids, $2 how long those that were never used are kept (NULL: not at all)
WITH link AS MATERIALIZED (
    SELECT l.ctid AS at, l.upload_id, l.job_id
    FROM upload_jobs AS l
    WHERE l.upload_id = ANY ($1::uuid[])
    FOR UPDATE SKIP LOCKED
), unneeded AS MATERIALIZED (
    SELECT u.id
    FROM uploads AS u
    WHERE u.id = ANY ($1::uuid[])
      AND NOT EXISTS (
          SELECT FROM upload_jobs AS l
          LEFT JOIN jobs AS j ON j.id = l.job_id
          WHERE l.upload_id = u.id
            AND (j.status IN ('pending', 'running') OR l.ctid NOT IN (SELECT link.at FROM link))
      )
      AND (
          $2::interval IS NULL
          OR u.created_at <= now() - $2
          OR EXISTS (SELECT FROM link WHERE link.upload_id = u.id)
      )
), reference AS (
    DELETE FROM upload_jobs AS l USING unneeded WHERE l.upload_id = unneeded.id
), upload AS (
    DELETE FROM uploads AS u USING unneeded WHERE u.id = unneeded.id RETURNING u.id
)
INSERT INTO upload_leftovers (upload_id, remove_at)
SELECT upload.id, now()
FROM upload
RETURNING upload_id
