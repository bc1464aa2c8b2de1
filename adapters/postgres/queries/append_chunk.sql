-- Upload, for each piece that has come: keep it, and what has come before it for another while.
-- $1 upload id, $2 place, $3 data, $4 how long it may wait for the next one
WITH coming AS (
    INSERT INTO upload_leftovers AS l (upload_id, remove_at)
    VALUES ($1::uuid, now() + $4::interval)
    ON CONFLICT (upload_id) DO UPDATE SET remove_at = excluded.remove_at
    RETURNING l.upload_id
)
INSERT INTO upload_chunks (upload_id, place, data)
SELECT coming.upload_id, $2::integer, $3::bytea
FROM coming
