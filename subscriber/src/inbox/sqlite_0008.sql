-- What manifests say: up to which number each sequence is named, since when, and which of its numbers no file has.
CREATE TABLE sequence_named (
    publisher TEXT    NOT NULL,
    epoch     TEXT    NOT NULL,
    blob_type TEXT    NOT NULL,
    up_to     INTEGER NOT NULL,
    since     INTEGER NOT NULL,
    PRIMARY KEY (publisher, epoch, blob_type)
) WITHOUT ROWID;
CREATE TABLE sequence_void (
    publisher TEXT    NOT NULL,
    epoch     TEXT    NOT NULL,
    blob_type TEXT    NOT NULL,
    first     INTEGER NOT NULL,
    last      INTEGER NOT NULL,
    PRIMARY KEY (publisher, epoch, blob_type, first)
) WITHOUT ROWID;
