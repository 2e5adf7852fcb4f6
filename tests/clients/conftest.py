"""One onnxd with a model of each kind for all tests, and small servers for clients that name no model and use
the first one."""

import os

# Set before the clients are imported. They must not connect to other machines.
os.environ.update(
    {
        "ANONYMIZED_TELEMETRY": "False",
        "HAYSTACK_TELEMETRY_ENABLED": "False",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LANGCHAIN_TRACING_V2": "false",
        "LANGSMITH_TRACING": "false",
    }
)
for variable in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
    os.environ.pop(variable, None)

import shutil

import pytest

from server import FIELD, MODELS, Server

SERVED = {
    "minilm": "minilm",
    "tiny": "tiny/a",
    "last_token": "tiny/last_token",
    "prompts": "tiny/prompts",
    "rerank": "tiny/rerank_a",
    "classify": "tiny/classify_a",
    "multi": "tiny/classify_multi",
    "tensor": "tiny/tensor_a",
    "types": "tiny/tensor_types",
    "image": "tiny/tensor_image",
    "two": "tiny/tensor_two",
    "mean": "tiny/tensor_mean",
    "fixed": "tiny/tensor_fixed",
}

_running = []


def _serve(models):
    try:
        server = Server.started(models)
    except AssertionError as error:
        # Abort the session instead of failing every test.
        pytest.exit(str(error), returncode=1)
    _running.append(server)
    yield server
    _running.remove(server)
    died = not server.runs()
    code = server.stop()
    assert not died and code == 0, f"onnxd exited with {code}:\n{server.final_log}"
    assert "panicked" not in server.final_log, server.final_log


@pytest.fixture(scope="session")
def server():
    yield from _serve({name: MODELS / path for name, path in SERVED.items()})


@pytest.fixture(scope="session")
def rerank_server():
    """A server whose first model is a reranker."""
    yield from _serve({"rerank": MODELS / "tiny/rerank_a"})


@pytest.fixture(scope="session")
def classify_server():
    """A server whose first model is a classifier."""
    yield from _serve({"classify": MODELS / "tiny/classify_a"})


@pytest.fixture(scope="session")
def entities_server():
    """A server whose first model is a token classifier."""
    yield from _serve({"entities": FIELD / "token-classifier"})


@pytest.fixture(scope="session")
def entailment_server():
    """A server whose first model is an entailment classifier."""
    yield from _serve({"entailment": FIELD / "zero-shot-nli"})


@pytest.fixture(scope="session")
def prompts_server():
    """A server whose first model has prompts."""
    yield from _serve({"prompts": MODELS / "tiny/prompts"})


@pytest.fixture
def changing_server(tmp_path):
    """A server with `tensor` in a directory that the test may change, and with `tiny`."""
    source = tmp_path / "tensor"
    shutil.copytree(MODELS / "tiny/tensor_a", source)
    models = {"tensor": source, "tiny": MODELS / "tiny/a"}
    for server in _serve(models):
        server.source = source
        yield server


@pytest.fixture(scope="session")
def search_server():
    """A server with an embedder as the first model, another one, and a reranker."""
    models = {"minilm": "minilm", "tiny": "tiny/a", "rerank": "tiny/rerank_a"}
    yield from _serve({name: MODELS / path for name, path in models.items()})


@pytest.fixture
def updatable_server():
    """A server with the embedder `m`, which the test may update to `tiny/b`."""
    yield from _serve({"m": MODELS / "tiny/a"})


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """Attaches the server's log to failed tests."""
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        for server in _running:
            lines = server.log().splitlines()[-25:]
            state = "is running" if server.runs() else f"exited with {server.process.poll()}"
            report.sections.append((f"onnxd at {server.http} {state}", "\n".join(lines)))
