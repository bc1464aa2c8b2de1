-- A claim that was under way while the tables changed: its caller takes this for a short outage, and asks again.
CREATE OR REPLACE FUNCTION begin_anew()
RETURNS trigger
LANGUAGE plpgsql
SET jit = off
AS $$
BEGIN
    RAISE EXCEPTION 'the database was migrated meanwhile' USING ERRCODE = 'lock_not_available';
END
$$
