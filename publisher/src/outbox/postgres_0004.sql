-- How many exports are in each state, summed up as they change: counting a million rows takes too long. Each session adds to a shard
-- of its own, so that none waits for another; a sum over the shards is exact.
CREATE TABLE tally (
    state   text    NOT NULL,
    shard   integer NOT NULL,
    exports bigint  NOT NULL,
    PRIMARY KEY (state, shard)
) WITH (fillfactor = 50);

-- In one order, so that two sessions that share a shard never wait for each other. The schema is the one of the table, whatever its
-- name is by now and whoever writes; because of `SET`, the writer's search path is as it was afterwards.
CREATE FUNCTION tally() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $tally$
BEGIN
    PERFORM set_config('search_path', quote_ident(TG_TABLE_SCHEMA), true);
    IF TG_OP = 'INSERT' THEN
        INSERT INTO tally AS known SELECT state, pg_backend_pid() % 64, count(*) FROM after GROUP BY state ORDER BY 1
        ON CONFLICT (state, shard) DO UPDATE SET exports = known.exports + excluded.exports;
    ELSIF TG_OP = 'UPDATE' THEN
        INSERT INTO tally AS known SELECT state, pg_backend_pid() % 64, sum(sign)
        FROM (SELECT state, 1 AS sign FROM after UNION ALL SELECT state, -1 FROM before) AS changed
        GROUP BY state HAVING sum(sign) <> 0 ORDER BY 1
        ON CONFLICT (state, shard) DO UPDATE SET exports = known.exports + excluded.exports;
    ELSE
        INSERT INTO tally AS known SELECT state, pg_backend_pid() % 64, -count(*) FROM before GROUP BY state ORDER BY 1
        ON CONFLICT (state, shard) DO UPDATE SET exports = known.exports + excluded.exports;
    END IF;
    RETURN NULL;
END
$tally$;
CREATE TRIGGER tally_added AFTER INSERT ON export REFERENCING NEW TABLE AS after
    FOR EACH STATEMENT EXECUTE FUNCTION tally();
CREATE TRIGGER tally_changed AFTER UPDATE ON export REFERENCING OLD TABLE AS before NEW TABLE AS after
    FOR EACH STATEMENT EXECUTE FUNCTION tally();
CREATE TRIGGER tally_removed AFTER DELETE ON export REFERENCING OLD TABLE AS before
    FOR EACH STATEMENT EXECUTE FUNCTION tally();
-- Whoever writes waits for these triggers from here on, so nothing is counted twice or not at all.
INSERT INTO tally SELECT state, 0, count(*) FROM export GROUP BY state;

-- Since when the first one waits, and what is not sent, among a million that are.
CREATE INDEX export_waiting ON export ((coalesce(resent_at, uploaded_at))) WHERE state = 'uploaded';
CREATE INDEX export_unsent ON export (state, row) WHERE state <> 'sent';
