-- The full export that a file is a part of; all four or none, from the number on.
ALTER TABLE export
    ADD COLUMN snapshot_id    text,
    ADD COLUMN snapshot_part  bigint,
    ADD COLUMN snapshot_of    bigint,
    ADD COLUMN snapshot_as_of bigint;

-- A part is one file, whoever makes the full export at the same time.
CREATE UNIQUE INDEX export_part ON export (blob_type, snapshot_id, publisher, snapshot_part) WHERE snapshot_id IS NOT NULL;
