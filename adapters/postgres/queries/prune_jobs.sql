-- Pruning: jobs that are old enough, with all that is known of them. $1 ids, $2 their numbers as they were read
-- Not one to which anything has happened since, and not one that somebody else holds: nobody waits for the other here.
WITH old AS MATERIALIZED (
    SELECT j.id
    FROM jobs AS j
    JOIN unnest($1::uuid[], $2::integer[]) AS given (id, number) ON given.id = j.id
    WHERE j.id = ANY ($1)
      AND j.number = given.number
      AND j.status IN ('completed', 'failed', 'cancelled')
    FOR UPDATE OF j SKIP LOCKED
), gone AS (
    DELETE FROM jobs AS j
    USING old
    WHERE j.id = ANY ($1)
      AND j.id = old.id
    RETURNING j.id
), detail AS (
    DELETE FROM job_details AS d USING gone WHERE d.job_id = gone.id RETURNING d.labels, d.created_at, d.seq
), label AS (
    DELETE FROM job_labels AS l
    USING detail CROSS JOIN LATERAL jsonb_each_text(detail.labels) AS given
    WHERE (l.name, l.value, l.created_at, l.seq) = (given.key, given.value, detail.created_at, detail.seq)
), body AS (
    DELETE FROM job_inputs AS i USING gone WHERE i.job_id = gone.id
), result AS (
    DELETE FROM job_results AS r USING gone WHERE r.job_id = gone.id
), run AS (
    DELETE FROM runs AS r USING gone WHERE r.job_id = gone.id
), change AS (
    DELETE FROM job_changes AS s USING gone WHERE s.job_id = gone.id
), progress AS (
    DELETE FROM job_progress AS p USING gone WHERE p.job_id = gone.id
)
SELECT id FROM gone
