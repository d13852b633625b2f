-- Up to which number each sequence is named by manifests. Kept apart from them, so that none is named twice, whatever is pruned.
CREATE TABLE manifested (
    publisher TEXT    NOT NULL,
    epoch     TEXT    NOT NULL,
    blob_type TEXT    NOT NULL,
    up_to     INTEGER NOT NULL,
    PRIMARY KEY (publisher, epoch, blob_type)
) WITHOUT ROWID;

-- What each manifest names; it is made when its export is uploaded.
CREATE TABLE manifest (
    export_id TEXT    NOT NULL PRIMARY KEY,
    publisher TEXT    NOT NULL,
    epoch     TEXT    NOT NULL,
    blob_type TEXT    NOT NULL,
    first     INTEGER NOT NULL,
    last      INTEGER NOT NULL,
    UNIQUE (publisher, epoch, blob_type, first)
) WITHOUT ROWID;

-- When they were looked for last.
ALTER TABLE outbox ADD COLUMN manifested_at INTEGER;

-- Who stands in the way when an export is forgotten.
CREATE INDEX export_replaced_by ON export (replaced_by) WHERE replaced_by IS NOT NULL;
