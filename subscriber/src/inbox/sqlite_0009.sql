-- What was announced, summed up by type as it changes: to read a million messages for it takes seconds. Rows and bytes as they were
-- read; before, as the message says.
ALTER TABLE inbox ADD COLUMN announced_rows INTEGER
    AS (CASE WHEN json_valid(body) THEN json_extract(body, '$.properties.waybill.rows') END) VIRTUAL;
ALTER TABLE inbox ADD COLUMN announced_bytes INTEGER
    AS (CASE WHEN json_valid(body) THEN json_extract(body, '$.properties.waybill.bytes') END) VIRTUAL;
CREATE TABLE announced (
    blob_type        TEXT    NOT NULL PRIMARY KEY,
    files            INTEGER NOT NULL,
    skipped          INTEGER NOT NULL,
    rows             INTEGER NOT NULL,
    bytes            INTEGER NOT NULL,
    files_with_bytes INTEGER NOT NULL
) WITHOUT ROWID;
INSERT INTO announced
    SELECT blob_type, count(*), total(state = 'skipped'), total(CASE state WHEN 'done' THEN rows ELSE announced_rows END),
        total(coalesce(stored_bytes, announced_bytes)), count(coalesce(stored_bytes, announced_bytes))
    FROM inbox WHERE blob_type IS NOT NULL AND file_key IS NOT NULL AND state <> 'duplicate' GROUP BY blob_type;
CREATE TRIGGER announced_added AFTER INSERT ON inbox
WHEN new.blob_type IS NOT NULL AND new.file_key IS NOT NULL AND new.state <> 'duplicate' BEGIN
    INSERT INTO announced VALUES (new.blob_type, 1, new.state = 'skipped',
        coalesce(CASE new.state WHEN 'done' THEN new.rows ELSE new.announced_rows END, 0),
        coalesce(new.stored_bytes, new.announced_bytes, 0), coalesce(new.stored_bytes, new.announced_bytes) IS NOT NULL)
    ON CONFLICT DO UPDATE SET files = files + 1, skipped = skipped + excluded.skipped, rows = rows + excluded.rows,
        bytes = bytes + excluded.bytes, files_with_bytes = files_with_bytes + excluded.files_with_bytes;
END;
CREATE TRIGGER announced_changed AFTER UPDATE OF state, rows, stored_bytes ON inbox
WHEN new.file_key IS NOT NULL AND new.state <> 'duplicate' AND (
    (new.state = 'skipped') <> (old.state = 'skipped') OR (new.state = 'done') <> (old.state = 'done')
    OR new.state = 'done' AND new.rows <> old.rows OR new.stored_bytes IS NOT old.stored_bytes) BEGIN
    UPDATE announced SET skipped = skipped + (new.state = 'skipped') - (old.state = 'skipped'),
        rows = rows + coalesce(CASE new.state WHEN 'done' THEN new.rows ELSE new.announced_rows END, 0)
            - coalesce(CASE old.state WHEN 'done' THEN old.rows ELSE old.announced_rows END, 0),
        bytes = bytes + coalesce(new.stored_bytes, new.announced_bytes, 0)
            - coalesce(old.stored_bytes, old.announced_bytes, 0),
        files_with_bytes = files_with_bytes + (coalesce(new.stored_bytes, new.announced_bytes) IS NOT NULL)
            - (coalesce(old.stored_bytes, old.announced_bytes) IS NOT NULL)
    WHERE blob_type = new.blob_type;
END;
CREATE TRIGGER announced_removed AFTER DELETE ON inbox
WHEN old.file_key IS NOT NULL AND old.state <> 'duplicate' BEGIN
    UPDATE announced SET files = files - 1, skipped = skipped - (old.state = 'skipped'),
        rows = rows - coalesce(CASE old.state WHEN 'done' THEN old.rows ELSE old.announced_rows END, 0),
        bytes = bytes - coalesce(old.stored_bytes, old.announced_bytes, 0),
        files_with_bytes = files_with_bytes - (coalesce(old.stored_bytes, old.announced_bytes) IS NOT NULL)
    WHERE blob_type = old.blob_type;
END;
