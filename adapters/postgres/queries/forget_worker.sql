-- A worker process leaves in good order; the long dead are swept with it. $1 id, $2 how old a dead one's beat must be
DELETE FROM workers WHERE id = $1 OR seen_at < now() - $2::interval
