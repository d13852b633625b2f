-- Sums of what filters and errors kept out, beside the counts: adding up a million rows takes too long.
ALTER TABLE tally ADD COLUMN filtered_rows INTEGER NOT NULL DEFAULT 0;
ALTER TABLE tally ADD COLUMN bad_rows INTEGER NOT NULL DEFAULT 0;
DROP TRIGGER tally_added;
DROP TRIGGER tally_changed;
DROP TRIGGER tally_removed;
DELETE FROM tally;
INSERT INTO tally
    SELECT state, coalesce(blob_type, ''), count(*), total(filtered_rows), total(bad_rows) FROM inbox GROUP BY 1, 2;
CREATE TRIGGER tally_added AFTER INSERT ON inbox BEGIN
    INSERT INTO tally VALUES (new.state, coalesce(new.blob_type, ''), 1, coalesce(new.filtered_rows, 0), new.bad_rows)
    ON CONFLICT DO UPDATE SET messages = messages + 1, filtered_rows = filtered_rows + excluded.filtered_rows,
        bad_rows = bad_rows + excluded.bad_rows;
END;
CREATE TRIGGER tally_changed AFTER UPDATE OF state, filtered_rows, bad_rows ON inbox
WHEN new.state <> old.state OR new.filtered_rows IS NOT old.filtered_rows OR new.bad_rows <> old.bad_rows BEGIN
    UPDATE tally SET messages = messages - 1, filtered_rows = filtered_rows - coalesce(old.filtered_rows, 0),
        bad_rows = bad_rows - old.bad_rows
    WHERE state = old.state AND blob_type = coalesce(old.blob_type, '');
    INSERT INTO tally VALUES (new.state, coalesce(new.blob_type, ''), 1, coalesce(new.filtered_rows, 0), new.bad_rows)
    ON CONFLICT DO UPDATE SET messages = messages + 1, filtered_rows = filtered_rows + excluded.filtered_rows,
        bad_rows = bad_rows + excluded.bad_rows;
END;
CREATE TRIGGER tally_removed AFTER DELETE ON inbox BEGIN
    UPDATE tally SET messages = messages - 1, filtered_rows = filtered_rows - coalesce(old.filtered_rows, 0),
        bad_rows = bad_rows - old.bad_rows
    WHERE state = old.state AND blob_type = coalesce(old.blob_type, '');
END;
DROP INDEX inbox_filtered;
DROP INDEX inbox_bad;

-- Which numbers of a publisher's sequence were announced, as runs: what lies between two of them is missing. `since` is when
-- the numbers before a run were first missed.
CREATE TABLE sequence_run (
    publisher TEXT    NOT NULL,
    epoch     TEXT    NOT NULL,
    blob_type TEXT    NOT NULL,
    first     INTEGER NOT NULL,
    last      INTEGER NOT NULL,
    since     INTEGER NOT NULL,
    PRIMARY KEY (publisher, epoch, blob_type, first)
) WITHOUT ROWID;
INSERT INTO sequence_run
    SELECT publisher, epoch, blob_type, min(sequence), max(sequence), min(received_at) FROM (
        SELECT publisher, epoch, blob_type, sequence, received_at, sequence - row_number() OVER (
            PARTITION BY publisher, epoch, blob_type ORDER BY sequence) AS run
        FROM (SELECT publisher, epoch, blob_type, sequence, min(received_at) AS received_at FROM inbox
              WHERE sequence IS NOT NULL AND publisher IS NOT NULL AND epoch IS NOT NULL AND blob_type IS NOT NULL
              GROUP BY 1, 2, 3, 4))
    GROUP BY 1, 2, 3, run;
-- What of them is not in effect.
CREATE INDEX inbox_open ON inbox (publisher, epoch, blob_type, sequence)
    WHERE sequence IS NOT NULL AND state IN ('saved', 'working', 'quarantined', 'skipped', 'expired');

-- Files that came to their end and were pruned: another message for one of them is still known.
CREATE TABLE pruned (
    file_key  TEXT    NOT NULL PRIMARY KEY,
    id        INTEGER NOT NULL,
    pruned_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX pruned_when ON pruned (pruned_at);
-- What may be pruned, and who stands in the way.
CREATE INDEX inbox_ended ON inbox (changed_at) WHERE state IN ('done', 'skipped', 'duplicate', 'expired');
CREATE INDEX inbox_duplicate ON inbox (duplicate_of) WHERE duplicate_of IS NOT NULL;
