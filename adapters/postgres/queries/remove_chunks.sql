-- Pruning: remove some pieces of one upload that is left over, and forget it with its last ones.
-- $1 how many pieces at most
WITH leftover AS MATERIALIZED (
    SELECT l.upload_id
    FROM upload_leftovers AS l
    WHERE l.remove_at <= now()
    ORDER BY l.remove_at
    LIMIT 1
    FOR UPDATE SKIP LOCKED
), few AS MATERIALIZED (
    SELECT c.upload_id, c.place
    FROM upload_chunks AS c
    JOIN leftover ON leftover.upload_id = c.upload_id
    ORDER BY c.place
    LIMIT $1::bigint
), chunk AS (
    DELETE FROM upload_chunks AS c USING few WHERE (c.upload_id, c.place) = (few.upload_id, few.place)
), forgotten AS (
    DELETE FROM upload_leftovers AS l
    USING leftover
    WHERE l.upload_id = leftover.upload_id
      AND (SELECT count(*) FROM few) < $1
)
SELECT leftover.upload_id FROM leftover
