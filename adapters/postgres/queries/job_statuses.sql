-- Long poll: the states of the jobs that callers of this process wait for. $1 ids
SELECT id, status FROM jobs WHERE id = ANY ($1::uuid[])
