-- Uploads that came whole, whoever asks. $1 ids
SELECT u.id, u.owner_service, u.bytes, u.created_at
FROM uploads AS u
WHERE u.id = ANY ($1::uuid[])
