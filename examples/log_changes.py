"""Publishes from Python: one row more in the transaction that makes a change.

    waybill-publisher init --change-log sqlite:shop.sqlite
    python3 log_changes.py shop.sqlite
    waybill-publisher run --change-log sqlite:shop.sqlite

With PostgreSQL and any driver it is the same INSERT, into waybill.change_log.
"""

import json
import sqlite3
import sys
import uuid

LOG = "INSERT INTO waybill_change_log (blob_type, op, row, key, correlation_id) VALUES ('ItemChanges', ?, ?, ?, ?)"


def main(path):
    shop = sqlite3.connect(path, timeout=30)
    shop.execute("CREATE TABLE IF NOT EXISTS item (id INTEGER PRIMARY KEY, name TEXT, price TEXT)")
    correlation_id = str(uuid.uuid4())
    # `with` commits, or rolls back both rows when anything fails.
    for item in [{"id": 1, "name": "Ball", "price": "19.90"}, {"id": 2, "name": "Hat", "price": "7.50"}]:
        with shop:
            shop.execute("INSERT OR REPLACE INTO item VALUES (:id, :name, :price)", item)
            shop.execute(LOG, ("upsert", json.dumps(item), str(item["id"]), correlation_id))
    with shop:
        shop.execute("DELETE FROM item WHERE id = 2")
        shop.execute(LOG, ("delete", json.dumps({"id": 2}), "2", correlation_id))


if __name__ == "__main__":
    main(sys.argv[1])
