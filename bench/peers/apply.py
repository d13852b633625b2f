"""Changes of a .jsonl.gz into a table, the last version wins, one transaction: apply.py postgres|sqlite WHERE FILE.jsonl.gz"""

import gzip
import sys

import orjson

COLUMNS = "id,change,sku,name,gtin,price,currency,unit,vat,stock,categories,attributes,updated_at,version".split(",")
kind, where, path = sys.argv[1:]


def rows():
    with gzip.open(path) as lines:
        for line in lines:
            row = orjson.loads(line)
            row["categories"] = "|".join(row["categories"])
            row["attributes"] = orjson.dumps(row["attributes"]).decode()
            yield tuple(row.values())


def upsert(columns, parameter):
    changed = ", ".join(f"{column} = excluded.{column}" for column in columns[1:])
    return (
        f"insert into item ({', '.join(columns)}) values ({', '.join([parameter] * len(columns))}) "
        f"on conflict (id) do update set {changed} where item.version < excluded.version"
    )


if kind == "postgres":
    # Its executemany sends a pipeline; more than some thousand rows at once only take memory.
    from itertools import islice

    import psycopg

    with psycopg.connect(where) as database, database.cursor() as cursor:
        changes = rows()
        while batch := list(islice(changes, 10_000)):
            cursor.executemany(upsert(COLUMNS, "%s"), batch)
else:
    import sqlite3

    database = sqlite3.connect(where, isolation_level=None)
    for pragma in ("journal_mode=wal", "synchronous=full", "cache_size=-65536"):
        database.execute(f"pragma {pragma}")
    columns = [column.replace("updated_at", "updatedAt") for column in COLUMNS]
    database.execute("begin")
    database.executemany(upsert(columns, "?"), rows())
    database.execute("commit")
    database.close()
