-- What is no longer configured has the defaults; a queue that was nothing else is forgotten.
-- $1 queues that are, $2 owners that are
WITH queue AS (
    UPDATE queues
    SET concurrency = NULL, preempt = false, reserved_share = 0, ageing = NULL, adaptive = false, adapted = NULL,
        adapting = NULL
    WHERE name <> ALL ($1::text[])
      AND (concurrency IS NOT NULL OR preempt OR reserved_share > 0 OR ageing IS NOT NULL OR adaptive)
      AND (
          paused OR stopped OR circuit_state <> 'closed' OR EXISTS (SELECT FROM lines AS l WHERE l.name = queues.name)
      )
), empty AS (
    DELETE FROM queues AS q
    WHERE q.name <> ALL ($1)
      AND NOT q.paused
      AND NOT q.stopped
      AND q.circuit_state = 'closed'
      AND NOT EXISTS (SELECT FROM lines AS l WHERE l.name = q.name)
)
DELETE FROM owners WHERE owner_service <> ALL ($2::text[])
