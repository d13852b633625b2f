-- Times are nanoseconds since 1970, UTC. `due_at` is when a row can be taken: the time of its next try in state 'saved',
-- the end of its lease in state 'working', null in every other state; so one index finds all work.
CREATE TABLE inbox (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    entity_path     TEXT    NOT NULL,
    broker_sequence INTEGER NOT NULL,
    enqueued_at     INTEGER NOT NULL,
    message_id      TEXT,
    state           TEXT    NOT NULL
        CHECK (state IN ('saved', 'working', 'done', 'quarantined', 'skipped', 'duplicate', 'expired')),
    reason          TEXT,
    problem         TEXT,
    body            TEXT    NOT NULL,
    received_at     INTEGER NOT NULL,
    changed_at      INTEGER NOT NULL,
    file_key        TEXT,
    blob_type       TEXT,
    correlation_id  TEXT,
    publisher       TEXT,
    epoch           TEXT,
    sequence        INTEGER,
    expires_at      INTEGER,
    due_at          INTEGER,
    attempts        INTEGER NOT NULL DEFAULT 0,
    worker          TEXT,
    leased_at       INTEGER,
    rows            INTEGER NOT NULL DEFAULT 0,
    bad_rows        INTEGER NOT NULL DEFAULT 0,
    stored_bytes    INTEGER,
    plain_bytes     INTEGER,
    -- The blob whose rows took effect, or may have.
    blob_etag       TEXT,
    blob_length     INTEGER,
    duplicate_of    INTEGER REFERENCES inbox (id),
    UNIQUE (entity_path, broker_sequence, enqueued_at)
);
CREATE UNIQUE INDEX inbox_file ON inbox (file_key) WHERE state <> 'duplicate' AND file_key IS NOT NULL;
CREATE INDEX inbox_due ON inbox (due_at, id) WHERE due_at IS NOT NULL;
CREATE INDEX inbox_state ON inbox (state, id);
CREATE INDEX inbox_type ON inbox (blob_type, id);
CREATE INDEX inbox_correlation ON inbox (correlation_id);

CREATE TABLE history (
    id       INTEGER PRIMARY KEY,
    inbox_id INTEGER NOT NULL REFERENCES inbox (id),
    at       INTEGER NOT NULL,
    state    TEXT    NOT NULL,
    reason   TEXT,
    problem  TEXT,
    worker   TEXT
);
CREATE INDEX history_of ON history (inbox_id, id);

-- Where grants said that files lie: a file elsewhere is nobody's.
CREATE TABLE place (
    endpoint      TEXT NOT NULL,
    container     TEXT NOT NULL,
    first_seen_at INTEGER NOT NULL,
    PRIMARY KEY (endpoint, container)
) WITHOUT ROWID;
