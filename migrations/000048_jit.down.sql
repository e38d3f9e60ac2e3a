DO $$
DECLARE
    f regprocedure;
BEGIN
    FOR f IN
        SELECT p.oid
        FROM pg_proc AS p
        WHERE p.pronamespace = 'mailcrane'::regnamespace AND p.proconfig @> '{enable_seqscan=off,jit=off}'
    LOOP
        EXECUTE format('ALTER FUNCTION %s RESET jit', f);
    END LOOP;
END
$$;

DELETE FROM mailcrane.migration WHERE version = 48;
