#!/usr/bin/env python3
"""Takes a part of the prepared Online Retail data set, always the same one: some orders whole, with all that they refer to.

Usage: sample.py DATASET_DIR (standard library only; writes beside itself)
"""
import gzip
import io
import json
import os
import re
import sys
import zlib

HERE = os.path.dirname(os.path.abspath(__file__))
ROW = re.compile(rb'(?:[^"\n]|"(?:[^"]|"")*")*\n')
FIELD = re.compile(r'(?:"((?:[^"]|"")*)"|([^,\n]*))[,\n]')


def fields(line):
    return [quoted.replace('""', '"') if quoted else bare for quoted, bare in FIELD.findall(line)]


def main():
    source = sys.argv[1]
    with open(os.path.join(source, "schema.json"), encoding="utf-8") as file:
        schema = json.load(file)
    tables = {}
    for table in schema["tables"]:
        with gzip.open(os.path.join(source, table["file"])) as file:
            lines = [line.decode("utf-8") for line in ROW.findall(file.read())]
        names = [column["name"] for column in table["columns"]]
        tables[table["name"]] = lines[0], [(line, dict(zip(names, fields(line)))) for line in lines[1:]]

    def some(one_of, *key):
        return zlib.crc32("|".join(key).encode()) % one_of == 0

    def rows(table, is_chosen):
        return [(line, row) for line, row in tables[table][1] if is_chosen(row)]

    part = {"sales_order": rows("sales_order", lambda row: some(60, row["InvoiceNo"]))}
    orders = {row["InvoiceNo"] for _, row in part["sales_order"]}
    part["sales_order_line"] = rows("sales_order_line", lambda row: row["InvoiceNo"] in orders)
    named = {row["StockCode"] for _, row in part["sales_order_line"]}
    part["item"] = rows("item", lambda row: row["StockCode"] in named or some(40, row["StockCode"]))
    items = {row["StockCode"] for _, row in part["item"]}
    buyers = {row["CustomerID"] for _, row in part["sales_order"]}
    part["customer"] = rows("customer", lambda row: row["CustomerID"] in buyers or some(20, row["CustomerID"]))
    customers = {row["CustomerID"] for _, row in part["customer"]}
    history = lambda of: lambda row: row["StockCode"] in items and some(of, row["StockCode"], row["ValidFrom"])
    part["item_description_history"] = rows("item_description_history", history(4))
    part["item_price_history"] = rows("item_price_history", history(24))
    part["customer_country_history"] = rows("customer_country_history", lambda row: row["CustomerID"] in customers)
    part["stock_adjustment"] = rows("stock_adjustment", lambda row: some(10, row["AdjustmentNo"]))

    for table in schema["tables"]:
        lines = [tables[table["name"]][0]] + [line for line, _ in part[table["name"]]]
        table["rows"], table["complete"] = len(lines) - 1, False
        packed = io.BytesIO()
        with gzip.GzipFile(fileobj=packed, mode="wb", filename="", mtime=0, compresslevel=9) as file:
            file.write("".join(lines).encode("utf-8"))
        with open(os.path.join(HERE, table["file"]), "wb") as file:
            file.write(packed.getvalue())
        print(table["name"], table["rows"], len(packed.getvalue()))
    with open(os.path.join(HERE, "schema.json"), "w", encoding="utf-8") as file:
        json.dump(schema, file, indent=1)
        file.write("\n")


main()
