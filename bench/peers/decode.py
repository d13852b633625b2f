"""Counts the rows whose top-level currency is SEK: decode.py WAY FILE.gz"""

import sys

way, path = sys.argv[1:]


def jsonl_stdlib():
    import gzip
    import json

    with gzip.open(path) as lines:
        return sum(json.loads(line)["currency"] == "SEK" for line in lines)


def jsonl_isal_orjson():
    import orjson
    from isal import igzip

    with igzip.open(path) as lines:
        return sum(orjson.loads(line)["currency"] == "SEK" for line in lines)


def jsonl_duckdb():
    # Its guide: name the columns, so that it need not guess them, nor read the others.
    import duckdb

    read = "read_json(?, format='newline_delimited', columns={currency: 'VARCHAR'})"
    return duckdb.execute(f"select count(*) from {read} where currency = 'SEK'", [path]).fetchone()[0]


def jsonl_polars():
    import polars

    # Its guide: a schema, so that it need not guess one, nor read what is not asked for.
    rows = polars.scan_ndjson(path, schema={"currency": polars.String})
    return rows.filter(polars.col("currency") == "SEK").select(polars.len()).collect(engine="streaming").item()


def csv_stdlib():
    import csv
    import gzip

    with gzip.open(path, "rt", encoding="utf-8", newline="") as text:
        rows = csv.reader(text)
        column = next(rows).index("currency")
        return sum(row[column] == "SEK" for row in rows)


def csv_duckdb():
    # Its guide: say what the file is, so that it need not guess, and texts need not become other types.
    import csv
    import gzip

    import duckdb

    with gzip.open(path, "rt", encoding="utf-8", newline="") as text:
        columns = {name: "VARCHAR" for name in next(csv.reader(text))}
    said = """auto_detect=false, header=true, delim=',', quote='"', escape='"', new_line='\\n'"""
    read = f"read_csv(?, {said}, columns={columns})"
    return duckdb.execute(f"select count(*) from {read} where currency = 'SEK'", [path]).fetchone()[0]


def csv_polars():
    import polars

    rows = polars.scan_csv(path)
    return rows.filter(polars.col("currency") == "SEK").select(polars.len()).collect(engine="streaming").item()


def xml_lxml():
    # As its documentation says for large files: elements are cleared, and those before them deleted.
    import gzip

    from lxml import etree

    count = 0
    with gzip.open(path) as file:
        for _, item in etree.iterparse(file, tag="item"):
            count += item.findtext("currency") == "SEK"
            item.clear()
            while item.getprevious() is not None:
                del item.getparent()[0]
    return count


def xml_expat():
    from xml.parsers import expat

    from isal import igzip

    count, text = 0, None

    def start(tag, _):
        nonlocal text
        if tag == "currency":
            text = ""

    def data(part):
        nonlocal text
        if text is not None:
            text += part

    def end(_):
        nonlocal count, text
        if text is not None:
            count += text == "SEK"
            text = None

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, data
    with igzip.open(path) as file:
        parser.ParseFile(file)
    return count


print(globals()[way.replace("-", "_")]())
