-- The service writes `waybill_change_log`; the rest is the publisher's. Its instants are nanoseconds since 1970, UTC.

CREATE TABLE waybill_change_log (
    id             INTEGER PRIMARY KEY AUTOINCREMENT,
    -- Text ends at its first zero for GLOB, and bytes are no text.
    blob_type      TEXT    NOT NULL CHECK (blob_type GLOB '[A-Za-z0-9]*' AND NOT blob_type GLOB '*[^A-Za-z0-9._-]*'
                                           AND length(CAST(blob_type AS BLOB)) = length(blob_type)
                                           AND length(blob_type) <= 200 AND typeof(blob_type) = 'text'),
    op             TEXT    NOT NULL DEFAULT 'upsert' CHECK (op IN ('upsert', 'delete')),
    row            TEXT    NOT NULL CHECK (json_valid(row) AND json_type(row) = 'object'),
    key            TEXT,
    occurred_at    TEXT    NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    correlation_id TEXT    CHECK (length(correlation_id) BETWEEN 1 AND 256 AND instr(correlation_id, char(0)) = 0
                                  AND typeof(correlation_id) IN ('text', 'null')),
    causation_id   TEXT    CHECK (length(causation_id) BETWEEN 1 AND 256 AND instr(causation_id, char(0)) = 0
                                  AND typeof(causation_id) IN ('text', 'null')),
    traceparent    TEXT    CHECK (length(traceparent) BETWEEN 1 AND 256 AND instr(traceparent, char(0)) = 0
                                  AND typeof(traceparent) IN ('text', 'null'))
);

CREATE INDEX waybill_change_log_of_type ON waybill_change_log (blob_type, id);

-- Whose log it is.
CREATE TABLE waybill_log (
    one        INTEGER PRIMARY KEY CHECK (one = 1),
    epoch      TEXT,                -- of the outbox that its files go to
    created_at INTEGER NOT NULL
);

-- Up to where the changes of a type are in files.
CREATE TABLE waybill_planned (
    blob_type TEXT    PRIMARY KEY,
    up_to     INTEGER NOT NULL
) WITHOUT ROWID;

-- Files that are planned: the changes of the type with ids in (after, up_to].
CREATE TABLE waybill_file (
    number         INTEGER PRIMARY KEY AUTOINCREMENT,
    export_id      TEXT    NOT NULL UNIQUE,
    blob_type      TEXT    NOT NULL,
    after          INTEGER NOT NULL,
    up_to          INTEGER NOT NULL,
    changes        INTEGER NOT NULL,
    bytes          INTEGER NOT NULL,
    correlation_id TEXT    NOT NULL,
    causation_id   TEXT,
    traceparent    TEXT,
    planned_at     INTEGER NOT NULL,
    problem        TEXT,            -- why it could not be made, the last time
    exported_at    INTEGER,
    expires_at     INTEGER
);

CREATE INDEX waybill_file_open ON waybill_file (blob_type, number) WHERE exported_at IS NULL;
CREATE INDEX waybill_file_of_type ON waybill_file (blob_type, up_to);
CREATE INDEX waybill_file_expires ON waybill_file (expires_at) WHERE expires_at IS NOT NULL;

-- Changes that no file can hold.
CREATE TABLE waybill_refused (
    change  INTEGER PRIMARY KEY,
    problem TEXT    NOT NULL,
    at      INTEGER NOT NULL
);
