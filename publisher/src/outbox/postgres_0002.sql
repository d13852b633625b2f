-- Up to which number each sequence is named by manifests. Kept apart from them, so that none is named twice, whatever is pruned.
CREATE TABLE manifested (
    publisher text   NOT NULL,
    epoch     text   NOT NULL,
    blob_type text   NOT NULL,
    up_to     bigint NOT NULL,
    PRIMARY KEY (publisher, epoch, blob_type)
);

-- What each manifest names; it is made when its export is uploaded.
CREATE TABLE manifest (
    export_id text   NOT NULL PRIMARY KEY,
    publisher text   NOT NULL,
    epoch     text   NOT NULL,
    blob_type text   NOT NULL,
    first     bigint NOT NULL,
    last      bigint NOT NULL,
    UNIQUE (publisher, epoch, blob_type, first)
);

-- When they were looked for last.
ALTER TABLE outbox ADD COLUMN manifested_at timestamptz;

-- Who stands in the way when an export is forgotten.
CREATE INDEX export_replaced_by ON export (replaced_by) WHERE replaced_by IS NOT NULL;
