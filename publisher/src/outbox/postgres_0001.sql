CREATE TABLE outbox (
    one        integer     PRIMARY KEY CHECK (one = 1),
    epoch      text        NOT NULL, -- UUID version 7, made with this database
    created_at timestamptz NOT NULL
);

CREATE TABLE export (
    row              bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    export_id        text        NOT NULL,
    publisher        text        NOT NULL,
    epoch            text        NOT NULL,
    blob_type        text        NOT NULL,
    sequence         bigint,
    correlation_id   text        NOT NULL,
    causation_id     text,
    traceparent      text,
    blob             text        NOT NULL,
    uri              text,
    content_type     text        NOT NULL,
    content_encoding text,
    properties       text,
    schema           text,
    rows             bigint,
    bytes            bigint,
    plain_bytes      bigint,
    plain_sha256     text,
    sha256           text,
    state            text        NOT NULL CHECK (state IN ('planned', 'uploaded', 'sent', 'void')),
    reason           text,
    replaced_by      bigint      REFERENCES export (row),
    message_id       text,
    created_at       timestamptz NOT NULL,
    uploaded_at      timestamptz,
    sent_at          timestamptz,
    expires_at       timestamptz,
    tries            bigint      NOT NULL DEFAULT 0,
    due_at           timestamptz,
    last_error       text,
    resent           bigint      NOT NULL DEFAULT 0, -- how often a person ordered the message again
    resent_at        timestamptz,
    attempt          bigint      NOT NULL DEFAULT 1,
    owner            bigint      -- the advisory lock of who uploads it, while it is planned
);

CREATE UNIQUE INDEX export_live ON export (export_id) WHERE state <> 'void';
CREATE INDEX export_by_id ON export (export_id);
CREATE UNIQUE INDEX export_number ON export (epoch, publisher, blob_type, sequence) WHERE sequence IS NOT NULL;
CREATE INDEX export_due ON export (due_at, row) WHERE state = 'uploaded';
CREATE INDEX export_planned ON export (owner) WHERE state = 'planned';
CREATE INDEX export_by_correlation ON export (correlation_id);

-- Kept apart from the exports, so that a number is never given again, whatever is pruned.
CREATE TABLE sequence (
    publisher text   NOT NULL,
    blob_type text   NOT NULL,
    last      bigint NOT NULL,
    PRIMARY KEY (publisher, blob_type)
);

-- Types whose messages wait for a person.
CREATE TABLE paused (
    blob_type text        PRIMARY KEY,
    since     timestamptz NOT NULL,
    why       text        NOT NULL
);

CREATE TABLE history (
    id     bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    export bigint      NOT NULL REFERENCES export (row),
    at     timestamptz NOT NULL,
    state  text        NOT NULL,
    note   text
);

CREATE INDEX history_of_export ON history (export);
