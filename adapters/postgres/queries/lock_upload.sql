-- Removing an upload: from here on no new job can use it, until the end of the transaction. $1 upload id
SELECT u.id
FROM uploads AS u
WHERE u.id = $1::uuid
FOR UPDATE
