-- Reading an upload: one piece of it. $1 upload id, $2 place
SELECT c.data
FROM upload_chunks AS c
WHERE c.upload_id = $1::uuid
  AND c.place = $2::integer
