-- Upload, when all of it has come: nothing, where something of it is gone, or may be going at this moment.
-- $1 upload id, $2 owner, $3 bytes, $4 pieces
WITH come AS (
    DELETE FROM upload_leftovers AS l
    WHERE l.upload_id = $1::uuid
      AND l.remove_at > now()
      AND (SELECT count(*) FROM upload_chunks AS c WHERE c.upload_id = $1) = $4::bigint
    RETURNING l.upload_id
)
INSERT INTO uploads AS u (id, bytes, created_at, owner_service)
SELECT come.upload_id, $3::bigint, now(), $2::text
FROM come
RETURNING u.id, u.owner_service, u.bytes, u.created_at
