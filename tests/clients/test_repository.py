"""Triton's repository API: tritonclient over HTTP on the admin address, which requires a token, and the effect of
its calls. `load` is an update and returns when the new generation is serving."""

import shutil

import numpy as np
import pytest
import requests
import tritonclient.http as http
from tritonclient.utils import InferenceServerException

from reference import close, run
from server import ADMIN_TOKEN, MODELS
from tensors import inputs, rows

BEARER = {"Authorization": f"Bearer {ADMIN_TOKEN}"}


@pytest.fixture
def admin(changing_server):
    with http.InferenceServerClient(changing_server.admin) as client:
        yield client


@pytest.fixture
def client(changing_server):
    with http.InferenceServerClient(changing_server.http) as client:
        yield client


def serves(client, model):
    """Asserts that `tensor` answers like the given tiny model, and returns the generation."""
    x = rows(3)
    result = client.infer("tensor", inputs(http, x=x))
    close(result.as_numpy("y"), run(f"tiny/{model}", x=x)["y"])
    return int(result.get_response()["parameters"]["generation"])


def replace(source, model):
    shutil.copyfile(MODELS / f"tiny/{model}/model.onnx", source / "model.onnx.new")
    (source / "model.onnx.new").rename(source / "model.onnx")


def test_load_unload_and_index(changing_server, admin, client):
    index = {entry["name"]: entry for entry in admin.get_model_repository_index(headers=BEARER)}
    assert {"tensor", "tiny"} <= set(index)
    assert index["tensor"]["state"] == "READY"
    first = serves(client, "tensor_a")

    replace(changing_server.source, "tensor_b")
    assert serves(client, "tensor_a") == first
    admin.load_model("tensor", headers=BEARER)
    second = serves(client, "tensor_b")
    assert second > first

    admin.unload_model("tensor", headers=BEARER)
    with pytest.raises(InferenceServerException) as refused:
        client.infer("tensor", inputs(http, x=rows(1)))
    assert "tensor" in refused.value.message()
    assert not client.is_model_ready("tensor")
    assert client.is_model_ready("tiny")
    states = {e["name"]: e.get("state") for e in admin.get_model_repository_index(headers=BEARER)}
    assert states.get("tensor") != "READY"

    admin.load_model("tensor", headers=BEARER)
    assert serves(client, "tensor_b") > first


def test_load_accepts_a_source_and_returns_the_generation(changing_server, client):
    url = f"http://{changing_server.admin}/v2/repository/models/tensor/load"
    body = {"parameters": {"source": str(MODELS / "tiny/tensor_b")}}
    answer = requests.post(url, json=body, headers=BEARER, timeout=60)
    assert answer.status_code == 200, answer.text
    assert serves(client, "tensor_b") == answer.json()["generation"]


def test_a_bad_candidate_is_refused_and_serving_continues(changing_server, admin, client):
    first = serves(client, "tensor_a")
    (changing_server.source / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(InferenceServerException) as refused:
        admin.load_model("tensor", headers=BEARER)
    assert refused.value.status() == "400"
    assert refused.value.message()
    assert serves(client, "tensor_a") == first


def test_an_unknown_model_is_refused(admin):
    with pytest.raises(InferenceServerException) as refused:
        admin.load_model("nobody", headers=BEARER)
    assert "nobody" in refused.value.message()


@pytest.mark.parametrize("headers", [None, {"Authorization": "Bearer wrong"}, {"Authorization": ADMIN_TOKEN}])
def test_without_the_token_every_call_is_refused(admin, client, headers):
    first = serves(client, "tensor_a")
    for call in (
        lambda: admin.get_model_repository_index(headers=headers),
        lambda: admin.load_model("tensor", headers=headers),
        lambda: admin.unload_model("tensor", headers=headers),
    ):
        with pytest.raises(InferenceServerException) as refused:
            call()
        assert refused.value.status() == "401"
    assert serves(client, "tensor_a") == first


def test_the_public_address_refuses_changes(client):
    for call in (client.load_model, client.unload_model):
        with pytest.raises(InferenceServerException):
            call("tensor")
    x = rows(1)
    result = client.infer("tensor", inputs(http, x=x))
    np.testing.assert_allclose(result.as_numpy("y"), run("tiny/tensor_a", x=x)["y"], rtol=1e-5)
