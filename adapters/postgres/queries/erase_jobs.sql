-- Erase: final jobs with all that is known of them. $1 ids
-- Not one that has been started afresh, and even ended, since this statement began: what its run left is not seen here.
WITH final AS MATERIALIZED (
    SELECT j.id, j.number
    FROM jobs AS j
    WHERE j.id = ANY ($1::uuid[])
      AND j.status IN ('completed', 'failed', 'cancelled')
), gone AS (
    DELETE FROM jobs AS j
    USING final
    WHERE j.id = ANY ($1::uuid[])
      AND j.id = final.id
      AND j.number = final.number
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
