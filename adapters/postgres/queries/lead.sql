-- Scheduler, every second: take the lead if it is free or run out, or keep it. Tells for how long somebody has led
-- without a gap: in it leases may have run out although nothing was wrong with their workers. $1 holder, $2 ttl
INSERT INTO leader (name, holder, expires_at, steady_since)
VALUES ('scheduler', $1, now() + $2::interval, now())
ON CONFLICT (name) DO UPDATE
SET holder = excluded.holder,
    expires_at = excluded.expires_at,
    steady_since = CASE WHEN leader.expires_at + $2::interval < now() THEN now() ELSE leader.steady_since END
WHERE leader.holder = excluded.holder OR leader.expires_at < now()
RETURNING now() - steady_since AS steady
