"""Imports a folder of Markdown documents into a collection of onnxd, a section at a time.

Usage: index.py [FOLDER [URL]], by default docs of this project and http://127.0.0.1:8080. May be repeated: sections
that are gone from the documents are deleted.
"""

import json
import re
import sys
import urllib.error
import urllib.request
import uuid
from pathlib import Path

COLLECTION = "onnxd-docs"
MODEL = "minilm"
# About what MiniLM reads of a text; longer sections become several documents.
CHARACTERS_MAX = 900
# Documents sent at once. A request may have 2 MB and take 30 s.
BATCH = 100
TIMEOUT = 60


def sections(text):
    """Yields the headings above each section of a document, and its lines."""
    headings, lines, in_code = [], [], False
    for line in text.splitlines():
        if line.startswith("```"):
            in_code = not in_code
        heading = None if in_code else re.match(r"(#+) (.*)", line)
        if heading is None:
            lines.append(line)
            continue
        yield headings, lines
        headings, lines = [*headings[: len(heading[1]) - 1], heading[2]], []
    yield headings, lines


def pieces(lines):
    """Yields the lines as texts that the model reads to the end."""
    piece = ""
    for line in lines:
        if piece and len(piece) + len(line) > CHARACTERS_MAX:
            yield piece.strip()
            piece = ""
        piece += line + "\n"
    yield piece.strip()


def documents(folder, run):
    """Yields a document for each piece of each section."""
    for path in sorted(folder.rglob("*.md")):
        file = path.relative_to(folder).as_posix()
        parts = [
            (headings, piece)
            for headings, lines in sections(path.read_text(encoding="utf-8"))
            for piece in pieces(lines)
            if piece
        ]
        for number, (headings, piece) in enumerate(parts):
            title = " › ".join(headings)
            payload = {"file": file, "title": title, "run": run}
            yield {"id": f"{file}#{number}", "text": f"{title}\n\n{piece}", "payload": payload}


def call(method, url, body="", content_type="application/json"):
    """Returns the answer of onnxd. Its errors name the remedy, so they are shown as they are."""
    headers = {"content-type": content_type}
    request = urllib.request.Request(url, body.encode(), headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        sys.exit(f"{method} {url}: {error.code} {error.read().decode()}")
    except urllib.error.URLError as error:
        sys.exit(f"{url} does not answer: {error.reason}")


def main(folder=None, server="http://127.0.0.1:8080"):
    folder = Path(folder or Path(__file__).resolve().parents[2] / "docs")
    run = str(uuid.uuid4())
    found = list(documents(folder, run))
    if not found:
        sys.exit(f"{folder}: no Markdown documents")
    collection = f"{server}/collections/{COLLECTION}"
    if not call("GET", f"{collection}/exists")["result"]["exists"]:
        call("PUT", collection, json.dumps({"metadata": {"model": MODEL}}))
    for start in range(0, len(found), BATCH):
        lines = "\n".join(json.dumps(document) for document in found[start : start + BATCH])
        call("POST", f"{collection}/documents", lines, "application/x-ndjson")
    # Sections of earlier runs that this one did not replace.
    others = {"must_not": [{"key": "run", "match": {"value": run}}]}
    call("POST", f"{collection}/points/delete?wait=true", json.dumps({"filter": others}))
    print(f"{len(found)} sections of {folder} are in collection {COLLECTION}")


if __name__ == "__main__":
    main(*sys.argv[1:])
