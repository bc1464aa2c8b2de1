-- Scheduler, every second: take the lead if it is free or run out, or keep it. $1 holder, $2 ttl
INSERT INTO leader (name, holder, expires_at)
VALUES ('scheduler', $1, now() + $2::interval)
ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, expires_at = excluded.expires_at
WHERE leader.holder = excluded.holder OR leader.expires_at < now()
RETURNING holder
