-- For how long a job that starts now has been due, in milliseconds: what statistics of waiting are made of.
CREATE OR REPLACE FUNCTION waited_ms(p_run_at timestamptz, p_created_at timestamptz, p_now timestamptz)
RETURNS integer
LANGUAGE sql
IMMUTABLE
AS $$
    SELECT least(greatest(extract(epoch FROM p_now - greatest(p_run_at, p_created_at)) * 1000, 0), 2147483647)::integer
$$
