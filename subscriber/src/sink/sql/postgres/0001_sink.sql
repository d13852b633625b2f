-- How far a file has come, and what became of its rows. `rows` is the number of the last row that took effect.
CREATE TABLE _waybill_progress (
    file text COLLATE "C" PRIMARY KEY,
    blob_type text NOT NULL,
    rows bigint NOT NULL,
    done boolean NOT NULL,
    inserted bigint NOT NULL DEFAULT 0,
    updated bigint NOT NULL DEFAULT 0,
    deleted bigint NOT NULL DEFAULT 0,
    ignored bigint NOT NULL DEFAULT 0,
    superseded bigint NOT NULL DEFAULT 0,
    parked bigint NOT NULL DEFAULT 0,
    released bigint NOT NULL DEFAULT 0,
    bad bigint NOT NULL DEFAULT 0,
    stored_bytes bigint,
    plain_bytes bigint,
    plain_sha256 text,
    began_at timestamptz NOT NULL,
    changed_at timestamptz NOT NULL
);

-- Deleted keys. A row that is not newer does not bring its key back.
CREATE TABLE _waybill_tombstone (
    entity text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    version bytea NOT NULL,
    deleted_at timestamptz NOT NULL,
    PRIMARY KEY (entity, key)
);

-- Rows that wait for a parent; of each key the newest one. `row` is the whole row as JSON.
CREATE TABLE _waybill_parked (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    entity text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    version bytea NOT NULL,
    missing_entity text COLLATE "C" NOT NULL,
    missing_key text COLLATE "C" NOT NULL,
    row text NOT NULL,
    file text COLLATE "C" NOT NULL,
    file_row bigint NOT NULL,
    parked_at timestamptz NOT NULL,
    UNIQUE (entity, key)
);
CREATE INDEX _waybill_parked_missing ON _waybill_parked (missing_entity, missing_key, id);

-- Rows that cannot be used. `bytes` is the row as it stands in the file, cut at 64 KiB; `byte_offset` counts plain bytes
-- from the file's begin, and is null for a row that was parked before.
CREATE TABLE _waybill_bad_row (
    file text COLLATE "C" NOT NULL,
    row bigint NOT NULL,
    byte_offset bigint,
    reason text NOT NULL,
    problem text NOT NULL,
    bytes bytea NOT NULL,
    found_at timestamptz NOT NULL,
    PRIMARY KEY (file, row)
);

-- The tables in use: an entity's, or that of a blobType without one. `rule` says how keys and versions were made: under
-- another rule they could not be compared.
CREATE TABLE _waybill_table (
    name text COLLATE "C" PRIMARY KEY,
    entity text COLLATE "C" UNIQUE,
    blob_type text COLLATE "C" UNIQUE,
    rule text NOT NULL,
    publisher text
);

-- Which field goes to which column, and what fits it.
CREATE TABLE _waybill_column (
    table_name text COLLATE "C" NOT NULL,
    field text COLLATE "C" NOT NULL,
    name text NOT NULL,
    type text NOT NULL,
    PRIMARY KEY (table_name, field)
);
