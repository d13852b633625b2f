-- How far a file has come, and what became of its rows. `rows` is the number of the last row that took effect.
CREATE TABLE _waybill_progress (
    file TEXT NOT NULL PRIMARY KEY,
    blob_type TEXT NOT NULL,
    rows INTEGER NOT NULL,
    done INTEGER NOT NULL,
    inserted INTEGER NOT NULL DEFAULT 0,
    updated INTEGER NOT NULL DEFAULT 0,
    deleted INTEGER NOT NULL DEFAULT 0,
    ignored INTEGER NOT NULL DEFAULT 0,
    superseded INTEGER NOT NULL DEFAULT 0,
    parked INTEGER NOT NULL DEFAULT 0,
    released INTEGER NOT NULL DEFAULT 0,
    bad INTEGER NOT NULL DEFAULT 0,
    stored_bytes INTEGER,
    plain_bytes INTEGER,
    plain_sha256 TEXT,
    began_at TEXT NOT NULL,
    changed_at TEXT NOT NULL
);

-- Deleted keys. A row that is not newer does not bring its key back.
CREATE TABLE _waybill_tombstone (
    entity TEXT NOT NULL,
    key TEXT NOT NULL,
    version BLOB NOT NULL,
    deleted_at TEXT NOT NULL,
    PRIMARY KEY (entity, key)
) WITHOUT ROWID;

-- Rows that wait for a parent; of each key the newest one. `row` is the whole row as JSON.
CREATE TABLE _waybill_parked (
    id INTEGER PRIMARY KEY,
    entity TEXT NOT NULL,
    key TEXT NOT NULL,
    version BLOB NOT NULL,
    missing_entity TEXT NOT NULL,
    missing_key TEXT NOT NULL,
    row TEXT NOT NULL,
    file TEXT NOT NULL,
    file_row INTEGER NOT NULL,
    parked_at TEXT NOT NULL,
    UNIQUE (entity, key)
);
CREATE INDEX _waybill_parked_missing ON _waybill_parked (missing_entity, missing_key);

-- Rows that cannot be used. `bytes` is the row as it stands in the file, cut at 64 KiB; `byte_offset` counts plain bytes
-- from the file's begin, and is null for a row that was parked before.
CREATE TABLE _waybill_bad_row (
    file TEXT NOT NULL,
    row INTEGER NOT NULL,
    byte_offset INTEGER,
    reason TEXT NOT NULL,
    problem TEXT NOT NULL,
    bytes BLOB NOT NULL,
    found_at TEXT NOT NULL,
    PRIMARY KEY (file, row)
);

-- The tables in use: an entity's, or that of a blobType without one. `rule` says how keys and versions were made: under
-- another rule they could not be compared.
CREATE TABLE _waybill_table (
    name TEXT NOT NULL PRIMARY KEY COLLATE NOCASE,
    entity TEXT UNIQUE,
    blob_type TEXT UNIQUE,
    rule TEXT NOT NULL,
    publisher TEXT
);

-- Which field goes to which column, and what fits it.
CREATE TABLE _waybill_column (
    table_name TEXT NOT NULL COLLATE NOCASE,
    field TEXT NOT NULL,
    name TEXT NOT NULL,
    type TEXT NOT NULL,
    PRIMARY KEY (table_name, field)
) WITHOUT ROWID;
