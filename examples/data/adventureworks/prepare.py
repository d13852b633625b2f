#!/usr/bin/env python3
"""Make this folder from the prepared AdventureWorks data set that SOURCE.md describes.

Usage: prepare.py PREPARED_DATA_SET

Writes beside itself: every table as gzip CSV with unchanged plain content, both licences, `schema.json` with the
names of these files, and `entities.toml`. Only the standard library is used, and running it again changes nothing.
"""
import csv
import gzip
import io
import json
import shutil
import sys
from pathlib import Path

LICENCES = ["LICENSE-dbt-dimensional-modelling.txt", "LICENSE-microsoft-sql-server-samples.txt"]

# Types of schema.json that entities.toml calls otherwise; the rest has the same name in both.
COLUMN_TYPES = {"string": "text", "xml": "text"}

HEADER = """\
# The AdventureWorks tables as entities: written by prepare.py from schema.json.
# A blobType is a table's name in CamelCase with "Changes". A row waits for a missing parent ("park"), except where the
# data itself lacks parents.
"""


def main(source: Path, target: Path) -> None:
    schema = json.loads((source / "schema.json").read_text(encoding="utf-8"))
    for table in schema["tables"]:
        table["file"] = copy_table(source / table["file"], target)
    for licence in LICENCES:
        shutil.copyfile(source / licence, target / licence)
    write(target / "schema.json", json.dumps(schema, indent=1) + "\n")
    with (source / "foreign_keys.csv").open(encoding="utf-8", newline="") as counts:
        dangling = {row["name"]: int(row["dangling"]) for row in csv.DictReader(counts)}
    write(target / "entities.toml", entities(schema, dangling))


def copy_table(file: Path, target: Path) -> str:
    """Copies a table, compressed: a gzip file byte by byte, a plain one without time and name so that it never varies."""
    if file.suffix == ".gz":
        shutil.copyfile(file, target / file.name)
        return file.name
    packed = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=packed, mtime=0) as writer:
        writer.write(file.read_bytes())
    (target / (file.name + ".gz")).write_bytes(packed.getvalue())
    return file.name + ".gz"


def entities(schema: dict, dangling: dict) -> str:
    lines = [HEADER]
    for table in schema["tables"]:
        name = table["name"]
        blob_type = "".join(word.capitalize() for word in name.split("_")) + "Changes"
        lines.append(f"[entity.{name}]")
        lines.append(f"types = {texts([blob_type])}")
        lines.append(f"key = {texts(table['primary_key'])}")
        kinds = {column["name"]: COLUMN_TYPES.get(column["type"], column["type"]) for column in table["columns"]}
        version = table["version_column"]
        lines.append(f'version = {{ field = "{version}", type = "{kinds[version]}" }}')
        lines.append("")
        lines.append(f"[entity.{name}.columns]")
        lines.extend(f'{column} = "{kind}"' for column, kind in kinds.items())
        lines.append("")
        for reference in schema["foreign_keys"]:
            if reference["child"] == name:
                missing = dangling[reference["name"]]
                lines.append(f"[[entity.{name}.references]]")
                lines.append(f"fields = {texts(reference['columns'])}")
                lines.append(f'entity = "{reference["parent"]}"')
                lines.append('on_missing = "park"' if missing == 0 else f'on_missing = "apply" # {missing} rows lack theirs')
                lines.append("")
    return "\n".join(lines[:-1]) + "\n"


def texts(names: list) -> str:
    return "[" + ", ".join(f'"{name}"' for name in names) + "]"


def write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(__file__).resolve().parent)
