-- What is no longer configured has the defaults. $1 queues that are, $2 owners that are
WITH queue AS (
    UPDATE queues
    SET concurrency = NULL, preempt = false, reserved_share = 0, ageing = NULL, adaptive = false, adapted = NULL,
        adapting = NULL
    WHERE name <> ALL ($1::text[])
      AND (concurrency IS NOT NULL OR preempt OR reserved_share > 0 OR ageing IS NOT NULL OR adaptive)
)
DELETE FROM owners WHERE owner_service <> ALL ($2::text[])
