-- The number under which a file was exported, so that an outbox that was restored or lost is told from one that forgot the file; of
-- files that an earlier version exported it is not known.
ALTER TABLE waybill_file ADD COLUMN publisher TEXT;
ALTER TABLE waybill_file ADD COLUMN epoch TEXT;
ALTER TABLE waybill_file ADD COLUMN sequence INTEGER;
-- Whether it may go once its term is over: 0, once nobody can tell whether it was sent; 1, where a person says so.
ALTER TABLE waybill_file ADD COLUMN proven INTEGER;

CREATE INDEX waybill_file_unproven ON waybill_file (blob_type) WHERE proven = 0;
