-- Whether the type came from the first values, so that others may widen it; of columns that are there it is not known.
ALTER TABLE _waybill_column ADD COLUMN is_inferred INTEGER NOT NULL DEFAULT 0;
