-- Instants are nanoseconds since 1970, UTC.

CREATE TABLE outbox (
    one        INTEGER PRIMARY KEY CHECK (one = 1),
    epoch      TEXT    NOT NULL, -- UUID version 7, made with this database
    created_at INTEGER NOT NULL
);

CREATE TABLE export (
    row              INTEGER PRIMARY KEY AUTOINCREMENT,
    export_id        TEXT    NOT NULL,
    publisher        TEXT    NOT NULL,
    epoch            TEXT    NOT NULL,
    blob_type        TEXT    NOT NULL,
    sequence         INTEGER,
    correlation_id   TEXT    NOT NULL,
    causation_id     TEXT,
    traceparent      TEXT,
    blob             TEXT    NOT NULL,
    uri              TEXT,
    content_type     TEXT    NOT NULL,
    content_encoding TEXT,
    properties       TEXT,
    schema           TEXT,
    rows             INTEGER,
    bytes            INTEGER,
    plain_bytes      INTEGER,
    plain_sha256     TEXT,
    sha256           TEXT,
    state            TEXT    NOT NULL CHECK (state IN ('planned', 'uploaded', 'sent', 'void')),
    reason           TEXT,
    replaced_by      INTEGER REFERENCES export (row),
    message_id       TEXT,
    created_at       INTEGER NOT NULL,
    uploaded_at      INTEGER,
    sent_at          INTEGER,
    expires_at       INTEGER,
    tries            INTEGER NOT NULL DEFAULT 0,
    due_at           INTEGER,
    last_error       TEXT,
    resent           INTEGER NOT NULL DEFAULT 0, -- how often a person ordered the message again
    resent_at        INTEGER,
    attempt          INTEGER NOT NULL DEFAULT 1,
    owner            TEXT    -- who uploads it, while it is planned
);

CREATE UNIQUE INDEX export_live ON export (export_id) WHERE state <> 'void';
CREATE INDEX export_by_id ON export (export_id);
CREATE UNIQUE INDEX export_number ON export (epoch, publisher, blob_type, sequence) WHERE sequence IS NOT NULL;
CREATE INDEX export_due ON export (due_at, row) WHERE state = 'uploaded';
CREATE INDEX export_planned ON export (owner) WHERE state = 'planned';
CREATE INDEX export_by_correlation ON export (correlation_id);

-- Kept apart from the exports, so that a number is never given again, whatever is pruned.
CREATE TABLE sequence (
    publisher TEXT    NOT NULL,
    blob_type TEXT    NOT NULL,
    last      INTEGER NOT NULL,
    PRIMARY KEY (publisher, blob_type)
) WITHOUT ROWID;

-- Types whose messages wait for a person.
CREATE TABLE paused (
    blob_type TEXT    PRIMARY KEY,
    since     INTEGER NOT NULL,
    why       TEXT    NOT NULL
) WITHOUT ROWID;

CREATE TABLE history (
    id     INTEGER PRIMARY KEY,
    export INTEGER NOT NULL REFERENCES export (row),
    at     INTEGER NOT NULL,
    state  TEXT    NOT NULL,
    note   TEXT
);

CREATE INDEX history_of_export ON history (export);
