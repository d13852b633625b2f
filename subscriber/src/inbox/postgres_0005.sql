-- Which numbers of a publisher's sequence were announced, as runs: what lies between two of them is missing. `since` is when
-- the numbers before a run were first missed. Written under the lock of those who add messages.
CREATE TABLE sequence_run (
    publisher text        NOT NULL,
    epoch     text        NOT NULL,
    blob_type text        NOT NULL,
    first     bigint      NOT NULL,
    last      bigint      NOT NULL,
    since     timestamptz NOT NULL,
    PRIMARY KEY (publisher, epoch, blob_type, first)
);
INSERT INTO sequence_run
    SELECT publisher, epoch, blob_type, min(sequence), max(sequence), min(received_at) FROM (
        SELECT publisher, epoch, blob_type, sequence, received_at, sequence - row_number() OVER (
            PARTITION BY publisher, epoch, blob_type ORDER BY sequence) AS run
        FROM (SELECT publisher, epoch, blob_type, sequence, min(received_at) AS received_at FROM inbox
              WHERE sequence IS NOT NULL AND publisher IS NOT NULL AND epoch IS NOT NULL AND blob_type IS NOT NULL
              GROUP BY 1, 2, 3, 4) AS numbers) AS runs
    GROUP BY 1, 2, 3, run;
CREATE FUNCTION note_sequences(publishers text[], epochs text[], blob_types text[], sequences bigint[])
RETURNS void LANGUAGE plpgsql SET search_path FROM CURRENT AS $note$
DECLARE
    new record;
    earlier record;
    later record;
BEGIN
    FOR new IN SELECT * FROM unnest(publishers, epochs, blob_types, sequences) AS given (publisher, epoch, blob_type, sequence)
    LOOP
        SELECT first, last INTO earlier FROM sequence_run
        WHERE publisher = new.publisher AND epoch = new.epoch AND blob_type = new.blob_type AND first <= new.sequence
        ORDER BY first DESC LIMIT 1;
        CONTINUE WHEN earlier.last >= new.sequence;
        SELECT first, last, since INTO later FROM sequence_run
        WHERE publisher = new.publisher AND epoch = new.epoch AND blob_type = new.blob_type AND first > new.sequence
        ORDER BY first LIMIT 1;
        IF later.first = new.sequence + 1 THEN
            DELETE FROM sequence_run
            WHERE publisher = new.publisher AND epoch = new.epoch AND blob_type = new.blob_type AND first = later.first;
        END IF;
        IF earlier.last = new.sequence - 1 THEN
            UPDATE sequence_run
            SET last = CASE WHEN later.first = new.sequence + 1 THEN later.last ELSE new.sequence END
            WHERE publisher = new.publisher AND epoch = new.epoch AND blob_type = new.blob_type AND first = earlier.first;
        ELSE
            INSERT INTO sequence_run VALUES (new.publisher, new.epoch, new.blob_type, new.sequence,
                CASE WHEN later.first = new.sequence + 1 THEN later.last ELSE new.sequence END,
                coalesce(later.since, clock_timestamp()));
        END IF;
    END LOOP;
END
$note$;
-- What of them is not in effect.
CREATE INDEX inbox_open ON inbox (publisher, epoch, blob_type, sequence)
    WHERE sequence IS NOT NULL AND state IN ('saved', 'working', 'quarantined', 'skipped', 'expired');

-- Files that came to their end and were pruned: another message for one of them is still known.
CREATE TABLE pruned (
    file_hash bytea       NOT NULL PRIMARY KEY,
    id        bigint      NOT NULL,
    pruned_at timestamptz NOT NULL
);
CREATE INDEX pruned_when ON pruned (pruned_at);
-- What may be pruned, and who stands in the way.
CREATE INDEX inbox_ended ON inbox (changed_at) WHERE state IN ('done', 'skipped', 'duplicate', 'expired');
CREATE INDEX inbox_duplicate ON inbox (duplicate_of) WHERE duplicate_of IS NOT NULL;
