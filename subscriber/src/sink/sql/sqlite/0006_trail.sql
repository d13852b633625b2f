-- Where rows take effect in the order of their keys: which have, in one number, and `rows` says how many. Null: in the file's order.
ALTER TABLE _waybill_progress ADD COLUMN trail INTEGER;
