-- Upload, when its rest will not come: the next pruning removes what has come of it. $1 upload id
UPDATE upload_leftovers AS l
SET remove_at = now()
WHERE l.upload_id = $1::uuid
