-- Trigger on jobs, once per statement: note by how much each kind of job became more or fewer.
-- Appended, not added up: a counter that every statement updates would serialise them all.
CREATE OR REPLACE FUNCTION note_job_counts()
RETURNS trigger
LANGUAGE plpgsql
SET jit = off
AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO job_count_changes (
            owner_service, queue, task_type, model_profile, priority, status, due, error_code, at, jobs
        )
        SELECT
            owner_service, coalesce(queue, ''), task_type, model_profile, priority, status,
            status = 'pending' AND due, coalesce(error_code, ''), now(), count(*)
        FROM added
        GROUP BY 1, 2, 3, 4, 5, 6, 7, 8;
    ELSIF TG_OP = 'DELETE' THEN
        INSERT INTO job_count_changes (
            owner_service, queue, task_type, model_profile, priority, status, due, error_code, at, jobs
        )
        SELECT
            owner_service, coalesce(queue, ''), task_type, model_profile, priority, status,
            status = 'pending' AND due, coalesce(error_code, ''), now(), -count(*)
        FROM removed
        GROUP BY 1, 2, 3, 4, 5, 6, 7, 8;
    ELSE
        INSERT INTO job_count_changes (
            owner_service, queue, task_type, model_profile, priority, status, due, error_code, at, jobs
        )
        SELECT
            owner_service, coalesce(queue, ''), task_type, model_profile, priority, status,
            status = 'pending' AND due, coalesce(error_code, ''), now(), sum(one)
        FROM (SELECT added.*, 1 AS one FROM added UNION ALL SELECT removed.*, -1 FROM removed) AS change
        GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
        HAVING sum(one) <> 0;
    END IF;
    RETURN NULL;
END
$$
