"""The subscriber that a team would write in Python with Microsoft's SDKs, in one process.

subscriber.py receive BUS TOPIC SUBSCRIPTION DATABASE COUNT
    saves COUNT messages in SQLite, up to 100 with each commit, and completes them
subscriber.py run BUS TOPIC SUBSCRIPTION BLOB TARGET DATABASE COUNT [fast]
    saves COUNT messages, and for each: downloads its file, keeps the rows whose currency is SEK, upserts them (the last version
    wins) and marks the message done in one transaction, completes it. TARGET: sqlite, or a PostgreSQL address.
    fast: isal and orjson instead of gzip and json.

The last line is what it took from the first message on, after imports and connections.
"""

import gzip
import io
import json
import sqlite3
import sys
import time

from azure.servicebus import ServiceBusClient

COLUMNS = "id,change,sku,name,gtin,price,currency,unit,vat,stock,categories,attributes,updated_at,version".split(",")
SET = ", ".join(f"{column} = excluded.{column}" for column in COLUMNS[1:])
UPSERT = f"on conflict (id) do update set {SET} where item.version < excluded.version"
TABLE = (
    "(id bigint {key}, change text, sku text, name text, gtin text, price numeric(12,2), currency text, unit text, "
    "vat numeric(5,2), stock int, categories text, attributes jsonb, updated_at timestamptz, version bigint)"
)


class Sqlite:
    def __init__(self, path):
        self.database = sqlite3.connect(path, isolation_level=None)
        for pragma in ("journal_mode=wal", "synchronous=full"):
            self.database.execute(f"pragma {pragma}")
        self.database.execute("create table inbox (id text primary key, body text, done int default 0)")
        self.database.execute(f"create table item (id integer primary key, {', '.join(COLUMNS[1:])})")

    def save(self, messages):
        self.database.execute("begin immediate")
        insert = "insert into inbox (id, body) values (?, ?) on conflict do nothing"
        self.database.executemany(insert, [(message.message_id, str(message)) for message in messages])
        self.database.execute("commit")

    def write(self, message, rows):
        self.database.execute("begin immediate")
        self.database.executemany(f"insert into item values ({', '.join('?' * len(COLUMNS))}) {UPSERT}", rows)
        self.database.execute("update inbox set done = 1 where id = ?", (message.message_id,))
        self.database.execute("commit")


class Postgres:
    def __init__(self, address):
        import psycopg

        self.database = psycopg.connect(address)
        self.database.execute("create table inbox (id text primary key, body jsonb, done int default 0)")
        self.database.execute(f"create table item {TABLE.format(key='primary key')}")
        self.database.execute(f"create temp table staging {TABLE.format(key='')} on commit delete rows")
        self.database.commit()

    def save(self, messages):
        with self.database.cursor() as cursor:
            insert = "insert into inbox (id, body) values (%s, %s) on conflict do nothing"
            cursor.executemany(insert, [(message.message_id, str(message)) for message in messages])
        self.database.commit()

    def write(self, message, rows):
        with self.database.cursor() as cursor:
            with cursor.copy("copy staging from stdin") as copy:
                for row in rows:
                    copy.write_row(row)
            cursor.execute(f"insert into item select distinct on (id) * from staging order by id, version desc {UPSERT}")
            cursor.execute("update inbox set done = 1 where id = %s", (message.message_id,))
        self.database.commit()


def wanted(data, fast):
    if fast:
        import orjson
        from isal import igzip

        lines, loads = igzip.GzipFile(fileobj=io.BytesIO(data)), orjson.loads
    else:
        lines, loads = gzip.GzipFile(fileobj=io.BytesIO(data)), json.loads
    for line in lines:
        row = loads(line)
        if row["currency"] == "SEK":
            row["categories"] = "|".join(row["categories"])
            row["attributes"] = json.dumps(row["attributes"], ensure_ascii=False)
            yield tuple(row.values())


def say(began, count, result):
    took = time.perf_counter() - began
    print(json.dumps({"seconds": took, "result": result, "figures": {"messages/s": count / took}}))


def receive(receiver, database, count):
    inbox = Sqlite(database)
    began, saved = None, 0
    while saved < count:
        messages = receiver.receive_messages(max_message_count=min(100, count - saved), max_wait_time=30)
        began = began or time.perf_counter()
        if not messages:
            sys.exit(f"only {saved} of {count} messages came")
        inbox.save(messages)
        for message in messages:
            receiver.complete_message(message)
        saved += len(messages)
    say(began, count, f"{saved} saved")


def run(receiver, blob, target, database, count, fast):
    from azure.storage.blob import BlobServiceClient

    service = BlobServiceClient.from_connection_string(blob)
    store = Sqlite(database) if target == "sqlite" else Postgres(target)
    if fast:
        import isal.igzip
        import orjson
    began, done = None, 0
    while done < count:
        messages = receiver.receive_messages(max_message_count=100, max_wait_time=30)
        began = began or time.perf_counter()
        if not messages:
            sys.exit(f"only {done} of {count} messages came")
        store.save(messages)
        for message in messages:
            container, name = locate(service, json.loads(str(message))["uri"])
            data = service.get_blob_client(container, name).download_blob().readall()
            store.write(message, wanted(data, fast))
            receiver.complete_message(message)
            done += 1
    say(began, count, f"{done} files")


def locate(service, uri):
    """The container and the name of a blob of this account."""
    container, _, name = uri.split("?")[0].removeprefix(service.url.rstrip("/")).lstrip("/").partition("/")
    return container, name


what, bus, topic, subscription, *rest = sys.argv[1:]
with ServiceBusClient.from_connection_string(bus) as client:
    # Its documentation advises prefetch where messages are many and small.
    prefetch = 1000 if what == "receive" else 0
    with client.get_subscription_receiver(topic, subscription, prefetch_count=prefetch) as receiver:
        if what == "receive":
            receive(receiver, rest[0], int(rest[1]))
        else:
            run(receiver, rest[0], rest[1], rest[2], int(rest[3]), "fast" in rest[4:])
