-- A scheduler that stops frees the lead for its standby. $1 holder
DELETE FROM leader WHERE name = 'scheduler' AND holder = $1
