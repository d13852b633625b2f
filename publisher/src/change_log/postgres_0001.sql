-- The service writes `change_log`; the rest is the publisher's.

CREATE TABLE change_log (
    -- First, so that a transaction has its number before it takes an id: the publisher relies on it.
    xid            xid8        NOT NULL DEFAULT pg_current_xact_id(),
    id             bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- A bounded repeat ({0,199}) would take 20 us a row.
    blob_type      text        NOT NULL CHECK (blob_type ~ '^[A-Za-z0-9][A-Za-z0-9._-]*$' AND length(blob_type) <= 200),
    op             text        NOT NULL DEFAULT 'upsert' CHECK (op IN ('upsert', 'delete')),
    row            json        NOT NULL CHECK (json_typeof(row) = 'object'),
    key            text,
    occurred_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    correlation_id text        DEFAULT nullif(current_setting('waybill.correlation_id', true), '')
                               CHECK (char_length(correlation_id) BETWEEN 1 AND 256),
    causation_id   text        DEFAULT nullif(current_setting('waybill.causation_id', true), '')
                               CHECK (char_length(causation_id) BETWEEN 1 AND 256),
    traceparent    text        DEFAULT nullif(current_setting('waybill.traceparent', true), '')
                               CHECK (char_length(traceparent) BETWEEN 1 AND 256)
);

CREATE INDEX change_log_of_type ON change_log (blob_type, id);

-- Whose log it is.
CREATE TABLE log (
    one        integer     PRIMARY KEY CHECK (one = 1),
    cluster    text        NOT NULL, -- the database server's own identity, and the database's in it
    epoch      text,                 -- of the outbox that its files go to
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Up to where the changes of a type are in files.
CREATE TABLE planned (
    blob_type text   PRIMARY KEY,
    up_to     bigint NOT NULL
);

-- Files that are planned: the changes of the type with ids in (after, up_to].
CREATE TABLE file (
    number         bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    export_id      text        NOT NULL UNIQUE,
    blob_type      text        NOT NULL,
    after          bigint      NOT NULL,
    up_to          bigint      NOT NULL,
    changes        bigint      NOT NULL,
    bytes          bigint      NOT NULL,
    correlation_id text        NOT NULL,
    causation_id   text,
    traceparent    text,
    planned_at     timestamptz NOT NULL,
    problem        text,                 -- why it could not be made, the last time
    exported_at    timestamptz,
    expires_at     timestamptz
);

CREATE INDEX file_open ON file (blob_type, number) WHERE exported_at IS NULL;
CREATE INDEX file_of_type ON file (blob_type, up_to);
CREATE INDEX file_expires ON file (expires_at) WHERE expires_at IS NOT NULL;

-- Changes that no file can hold.
CREATE TABLE refused (
    change  bigint      PRIMARY KEY,
    problem text        NOT NULL,
    at      timestamptz NOT NULL
);
