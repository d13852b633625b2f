-- How many exports are in each state, summed up as they change: counting a million rows takes too long.
CREATE TABLE tally (
    state   TEXT    NOT NULL PRIMARY KEY,
    exports INTEGER NOT NULL
) WITHOUT ROWID;
INSERT INTO tally SELECT state, count(*) FROM export GROUP BY state;
CREATE TRIGGER tally_added AFTER INSERT ON export BEGIN
    INSERT INTO tally VALUES (new.state, 1) ON CONFLICT DO UPDATE SET exports = exports + 1;
END;
CREATE TRIGGER tally_changed AFTER UPDATE OF state ON export WHEN new.state <> old.state BEGIN
    UPDATE tally SET exports = exports - 1 WHERE state = old.state;
    INSERT INTO tally VALUES (new.state, 1) ON CONFLICT DO UPDATE SET exports = exports + 1;
END;
CREATE TRIGGER tally_removed AFTER DELETE ON export BEGIN
    UPDATE tally SET exports = exports - 1 WHERE state = old.state;
END;

-- Since when the first one waits, and what is not sent, among a million that are.
CREATE INDEX export_waiting ON export (coalesce(resent_at, uploaded_at)) WHERE state = 'uploaded';
CREATE INDEX export_unsent ON export (state, row) WHERE state <> 'sent';
