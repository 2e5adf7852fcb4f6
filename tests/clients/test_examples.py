"""The programs in examples/, against the real server."""

import contextlib
import html.parser
import json
import os
import re
import shutil
import subprocess
import sys
import time

import pytest
import requests

from server import MODELS, WORKSPACE, Server, free_port

EXAMPLES = WORKSPACE / "examples"
# Some chapters: embedding all of them takes a debug build minutes.
CHAPTERS = ("containers.md", "style.md", "updating.md")
READY_MAX = 30.0
STOP_MAX = 10.0


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A server whose model's directory the tests may change."""
    source = tmp_path_factory.mktemp("model") / "minilm"
    shutil.copytree(MODELS / "minilm", source)
    server = Server.started({"minilm": source}, ["--cors-allow-origin", "http://127.0.0.1:8000"])
    server.source = source
    yield server
    assert server.stop() == 0, server.final_log


@contextlib.contextmanager
def program(arguments, url, **environment):
    """Runs a web server until the block ends. Waits until it answers."""
    process = subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"} | environment,
        stdout=subprocess.DEVNULL,
    )
    try:
        end = time.monotonic() + READY_MAX
        while True:
            assert process.poll() is None and time.monotonic() < end, f"{arguments} does not answer"
            with contextlib.suppress(requests.ConnectionError):
                requests.get(url, timeout=2)
                break
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        try:
            process.wait(STOP_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def service(server, collection="docs"):
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    folder = EXAMPLES / "fastapi-service"
    arguments = ["-m", "uvicorn", "app:app", "--app-dir", folder, "--port", port, "--log-level", "warning"]
    with program(arguments, f"{url}/openapi.json", ONNXD_URL=server.url, COLLECTION=collection):
        yield url


@pytest.fixture(scope="module")
def version(searched):
    """Fills the collection of the service. Returns the version that embedded it."""
    documents = (EXAMPLES / "fastapi-service/documents.jsonl").read_bytes()
    collection = f"{searched.url}/collections/docs"
    made = requests.put(collection, json={"metadata": {"model": "minilm"}}, timeout=30)
    assert made.status_code == 200, made.text
    stored = requests.post(f"{collection}/documents", data=documents, timeout=60)
    assert stored.json()["documents"] == len(documents.splitlines()), stored.text
    return stored.json()["version"]


def update(server, model):
    """Replaces the files of the model, and returns when the update has committed."""
    shutil.rmtree(server.source)
    shutil.copytree(MODELS / model, server.source)
    token = (server.root / "token").read_text().strip()
    answer = requests.post(
        f"http://{server.admin}/v2/repository/models/minilm/load",
        headers={"authorization": f"Bearer {token}"},
        timeout=120,
    )
    assert answer.status_code == 200, answer.text


def test_fastapi_service(searched, version):
    with service(searched) as url:
        found = requests.get(f"{url}/search", {"q": "How big is London?", "limit": 2}, timeout=30)
        assert [hit["id"] for hit in found.json()] == [1, 2], found.text
        assert found.headers["x-model-version"] == version
        assert re.search(r"embed;dur=[\d.]+, search;dur=[\d.]+", found.headers["server-timing"])
        refused = requests.get(f"{url}/search", {"q": ""}, timeout=30)
        assert refused.status_code == 422


def test_fastapi_service_passes_errors_on(searched):
    with service(searched, "missing") as url:
        answer = requests.get(f"{url}/search", {"q": "London"}, timeout=30)
    assert answer.status_code == 404 and "create it first" in answer.json()["detail"]


@pytest.mark.usefixtures("version")
def test_fastapi_service_finds_the_same_after_an_update(searched):
    question = {"q": "Which instrument has strings?", "limit": 1}
    with service(searched) as url:
        before = requests.get(f"{url}/search", question, timeout=30)
        update(searched, "minilm-variant")
        after = requests.get(f"{url}/search", question, timeout=30)
    assert before.json()[0]["id"] == after.json()[0]["id"] == 5
    # Another model embedded the query and the documents.
    assert before.headers["x-model-version"] != after.headers["x-model-version"]
    assert before.json()[0]["score"] != after.json()[0]["score"]


def test_fastapi_service_without_onnxd():
    class Nothing:
        url = f"http://127.0.0.1:{free_port()}"

    with service(Nothing) as url:
        answer = requests.get(f"{url}/search", {"q": "a"}, timeout=30)
    assert answer.status_code == 503 and "does not answer" in answer.json()["detail"]


def index(*arguments):
    script = EXAMPLES / "docs-search/index.py"
    return subprocess.run([sys.executable, script, *map(str, arguments)], capture_output=True, text=True)


@pytest.fixture(scope="module")
def indexed(searched, tmp_path_factory):
    """The server, once the chapters are imported."""
    folder = tmp_path_factory.mktemp("docs")
    for name in CHAPTERS:
        shutil.copy(WORKSPACE / "docs" / name, folder)
    ran = index(folder, searched.url)
    assert ran.returncode == 0 and "sections" in ran.stdout, ran.stderr
    return searched


def look_for(server, query, **more):
    body = {"collection": "onnxd-docs", "query": query, "limit": 8, **more}
    answer = requests.post(f"{server.url}/search", json=body, timeout=30)
    assert answer.status_code == 200, answer.text
    return answer.json()["hits"]


def test_docs_search_finds_sections_of_the_book(indexed):
    for query, file in [
        ("undo an update", "updating.md"),
        ("which glossary word is used for a rejected update", "style.md"),
        ("memory limit of a container", "containers.md"),
    ]:
        hits = look_for(indexed, query, limit=3)
        assert file in [hit["payload"]["file"] for hit in hits], (query, hits)
    best = look_for(indexed, "terminationGracePeriodSeconds", hybrid=True, limit=1)
    assert "terminationGracePeriodSeconds" in best[0]["text"]


class Page(html.parser.HTMLParser):
    """The parts of a page that matter to people who cannot see it, and what it loads."""

    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def of(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def test_docs_search_page_is_allowed_to_search(indexed):
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    folder = EXAMPLES / "docs-search"
    arguments = ["-m", "http.server", port, "--bind", "127.0.0.1", "--directory", folder]
    with program(arguments, url):
        text = requests.get(url, timeout=30).content.decode()
    page = Page(text)
    # It loads nothing.
    assert not [tag for tag, attributes in page.tags if {"src", "href"} & set(attributes)]
    assert page.of("html") == [{"lang": "en"}] and page.of("main") and page.of("title")
    assert all("aria-label" in field for field in page.of("input") if field["type"] == "search")
    assert "innerHTML" not in text and "color-scheme: light dark" in text

    # What a browser sends for the page's call.
    origin = {"origin": "http://127.0.0.1:8000"}
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "content-type"}
    preflight = requests.options(f"{indexed.url}/search", headers=origin | asked, timeout=30)
    assert preflight.headers["access-control-allow-origin"] == origin["origin"]
    assert "content-type" in preflight.headers["access-control-allow-headers"].lower()
    fields = re.search(r"const body = \{ collection: \"([\w-]+)\"", text)
    body = {"collection": fields[1], "query": "undo an update", "hybrid": False, "limit": 8}
    headers = origin | {"content-type": "application/json"}
    answer = requests.post(f"{indexed.url}/search", data=json.dumps(body), headers=headers, timeout=30)
    assert answer.headers["access-control-allow-origin"] == origin["origin"]
    exposed = answer.headers["access-control-expose-headers"]
    assert "server-timing" in exposed and answer.headers["server-timing"]
    assert len(answer.json()["hits"]) == 8
    for hit in answer.json()["hits"]:
        assert {"title", "file"} <= set(hit["payload"]) and "\n\n" in hit["text"]


def test_docs_search_forgets_sections_that_are_gone(indexed, tmp_path):
    (tmp_path / "a.md").write_text("# Trees\n\nAn oak.\n\n## Old\n\nA lime.\n\n```\n# not a heading\n```\n")
    assert index(tmp_path, indexed.url).returncode == 0
    titles = {hit["payload"]["title"] for hit in look_for(indexed, "tree")}
    assert titles == {"Trees", "Trees › Old"}
    (tmp_path / "a.md").write_text("# Trees\n\nAn elm.\n")
    assert index(tmp_path, indexed.url).returncode == 0
    assert [hit["text"] for hit in look_for(indexed, "tree")] == ["Trees\n\nAn elm."]


def test_docs_search_names_what_is_wrong(tmp_path):
    assert "no Markdown documents" in index(tmp_path).stderr
    (tmp_path / "a.md").write_text("# Trees\n\nAn oak.\n")
    ran = index(tmp_path, f"http://127.0.0.1:{free_port()}")
    assert ran.returncode == 1 and "does not answer" in ran.stderr
