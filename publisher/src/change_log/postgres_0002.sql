-- The number under which a file was exported, so that an outbox that was restored or lost is told from one that forgot the file; of
-- files that an earlier version exported it is not known.
ALTER TABLE file
    ADD COLUMN publisher text,
    ADD COLUMN epoch     text,
    ADD COLUMN sequence  bigint,
    -- Whether it may go once its term is over: false, once nobody can tell whether it was sent; true, where a person says so.
    ADD COLUMN proven    boolean;

CREATE INDEX file_unproven ON file (blob_type) WHERE NOT proven;
