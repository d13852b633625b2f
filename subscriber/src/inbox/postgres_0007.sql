-- What manifests say: up to which number each sequence is named, since when, and which of its numbers no file has.
CREATE TABLE sequence_named (
    publisher text   NOT NULL,
    epoch     text   NOT NULL,
    blob_type text   NOT NULL,
    up_to     bigint NOT NULL,
    since     timestamptz NOT NULL,
    PRIMARY KEY (publisher, epoch, blob_type)
);
CREATE TABLE sequence_void (
    publisher text   NOT NULL,
    epoch     text   NOT NULL,
    blob_type text   NOT NULL,
    first     bigint NOT NULL,
    last      bigint NOT NULL,
    PRIMARY KEY (publisher, epoch, blob_type, first)
);
