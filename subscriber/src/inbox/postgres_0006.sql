-- Numbers are noted with the rows, whoever adds them: while replicas are replaced one after the other, those of an earlier version
-- go on adding messages, and know nothing of runs.
LOCK TABLE inbox IN SHARE ROW EXCLUSIVE MODE;
CREATE FUNCTION note_sequence(of_publisher text, of_epoch text, of_blob_type text, number bigint)
RETURNS void LANGUAGE plpgsql SET search_path FROM CURRENT AS $note$
DECLARE
    earlier record;
    later record;
    -- Nothing is added to a number: it may be the largest there is.
    joins_later boolean;
BEGIN
    SELECT first, last INTO earlier FROM sequence_run
    WHERE publisher = of_publisher AND epoch = of_epoch AND blob_type = of_blob_type AND first <= number
    ORDER BY first DESC LIMIT 1;
    IF earlier.last >= number THEN
        RETURN;
    END IF;
    SELECT first, last, since INTO later FROM sequence_run
    WHERE publisher = of_publisher AND epoch = of_epoch AND blob_type = of_blob_type AND first > number
    ORDER BY first LIMIT 1;
    joins_later := coalesce(later.first - 1 = number, false);
    IF joins_later THEN
        DELETE FROM sequence_run
        WHERE publisher = of_publisher AND epoch = of_epoch AND blob_type = of_blob_type AND first = later.first;
    END IF;
    IF earlier.last = number - 1 THEN
        UPDATE sequence_run SET last = CASE WHEN joins_later THEN later.last ELSE number END
        WHERE publisher = of_publisher AND epoch = of_epoch AND blob_type = of_blob_type AND first = earlier.first;
    ELSE
        INSERT INTO sequence_run VALUES (of_publisher, of_epoch, of_blob_type, number,
            CASE WHEN joins_later THEN later.last ELSE number END, coalesce(later.since, clock_timestamp()));
    END IF;
END
$note$;
CREATE FUNCTION note_added() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $note$
BEGIN
    PERFORM note_sequence(publisher, epoch, blob_type, sequence) FROM added
    WHERE state = 'saved' AND sequence IS NOT NULL AND publisher IS NOT NULL AND epoch IS NOT NULL AND blob_type IS NOT NULL;
    RETURN NULL;
END
$note$;
CREATE TRIGGER sequences_added AFTER INSERT ON inbox REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION note_added();
-- The version before calls this one; what it notes is noted already.
CREATE OR REPLACE FUNCTION note_sequences(publishers text[], epochs text[], blob_types text[], sequences bigint[])
RETURNS void LANGUAGE sql AS 'SELECT';
-- What such a replica added since there are runs.
SELECT note_sequence(publisher, epoch, blob_type, sequence) FROM inbox
WHERE state <> 'duplicate' AND sequence IS NOT NULL AND publisher IS NOT NULL AND epoch IS NOT NULL AND blob_type IS NOT NULL
    AND NOT EXISTS (
        SELECT FROM sequence_run AS run
        WHERE run.publisher = inbox.publisher AND run.epoch = inbox.epoch AND run.blob_type = inbox.blob_type
            AND run.first <= inbox.sequence AND run.last >= inbox.sequence);
