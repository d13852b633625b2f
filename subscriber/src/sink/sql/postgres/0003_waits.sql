-- Parents that a row does not wait for any more, though they are missing: a JSON list of entity and key.
ALTER TABLE _waybill_parked ADD COLUMN without text;
-- To find the rows that have waited for as long as they may.
CREATE INDEX _waybill_parked_since ON _waybill_parked (missing_entity, entity, parked_at, id);
