"""Rows of a CSV file as packed JSON Lines, with numbers and nested values: encode.py ROWS.csv OUT.gz"""

import csv
import gzip
import json
import os
import sys

source, out = sys.argv[1:]
whole, decimal = ("id", "stock", "version"), ("price", "vat")
with open(source, encoding="utf-8", newline="") as text, gzip.open(out, "wb", 6) as packed:
    for row in csv.DictReader(text):
        for name in whole:
            row[name] = int(row[name])
        for name in decimal:
            row[name] = float(row[name])
        row["categories"] = row["categories"].split("|")
        row["attributes"] = json.loads(row["attributes"])
        packed.write(json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")
print(json.dumps({"figures": {"bytes": os.path.getsize(out)}}))
