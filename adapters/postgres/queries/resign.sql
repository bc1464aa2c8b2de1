-- A scheduler that stops frees the lead for its standby. $1 holder
UPDATE leader SET expires_at = now() - interval '1 microsecond' WHERE name = 'scheduler' AND holder = $1
