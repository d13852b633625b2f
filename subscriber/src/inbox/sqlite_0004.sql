-- What is in the inbox, summed up as it changes: counting a million rows takes too long.
CREATE TABLE tally (
    state     TEXT    NOT NULL,
    blob_type TEXT    NOT NULL,
    messages  INTEGER NOT NULL,
    PRIMARY KEY (state, blob_type)
) WITHOUT ROWID;
INSERT INTO tally SELECT state, coalesce(blob_type, ''), count(*) FROM inbox GROUP BY 1, 2;
CREATE TRIGGER tally_added AFTER INSERT ON inbox BEGIN
    INSERT INTO tally VALUES (new.state, coalesce(new.blob_type, ''), 1)
    ON CONFLICT DO UPDATE SET messages = messages + 1;
END;
CREATE TRIGGER tally_changed AFTER UPDATE OF state ON inbox WHEN new.state <> old.state BEGIN
    UPDATE tally SET messages = messages - 1 WHERE state = old.state AND blob_type = coalesce(old.blob_type, '');
    INSERT INTO tally VALUES (new.state, coalesce(new.blob_type, ''), 1)
    ON CONFLICT DO UPDATE SET messages = messages + 1;
END;
CREATE TRIGGER tally_removed AFTER DELETE ON inbox BEGIN
    UPDATE tally SET messages = messages - 1 WHERE state = old.state AND blob_type = coalesce(old.blob_type, '');
END;

-- Files that may be lost.
CREATE INDEX inbox_at_risk ON inbox (expires_at)
    WHERE expires_at IS NOT NULL AND state IN ('saved', 'working', 'quarantined');

-- Who works the inbox, or did lately. Of a token only when it dies.
CREATE TABLE worker (
    worker             TEXT    NOT NULL PRIMARY KEY,
    started_at         INTEGER NOT NULL,
    seen_at            INTEGER NOT NULL,
    receives           INTEGER NOT NULL,
    works              INTEGER NOT NULL,
    attached           INTEGER NOT NULL,
    last_contact_at    INTEGER,
    bus_token_ends_at  INTEGER,
    blob_token_ends_at INTEGER,
    lag                INTEGER,
    problem            TEXT,
    stopped            INTEGER NOT NULL
) WITHOUT ROWID;
