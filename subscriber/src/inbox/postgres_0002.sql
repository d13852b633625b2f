-- Files that may be lost.
CREATE INDEX inbox_at_risk ON inbox (expires_at)
    WHERE expires_at IS NOT NULL AND state IN ('saved', 'working', 'quarantined');

-- Who works the inbox, or did lately. Of a token only when it dies.
CREATE TABLE worker (
    worker             text        NOT NULL PRIMARY KEY,
    started_at         timestamptz NOT NULL,
    seen_at            timestamptz NOT NULL,
    receives           boolean     NOT NULL,
    works              boolean     NOT NULL,
    attached           boolean     NOT NULL,
    last_contact_at    timestamptz,
    bus_token_ends_at  timestamptz,
    blob_token_ends_at timestamptz,
    -- In seconds.
    lag                double precision,
    problem            text,
    stopped            boolean     NOT NULL
);
