"""Features that only tritonclient.http has: JSON tensors, compression, raw bodies, greenlets and asyncio."""

import asyncio
import gzip
import json
import struct
import zlib

import numpy as np
import pytest
import requests
import tritonclient.http as http
import tritonclient.http.aio as http_aio
from tritonclient.utils import InferenceServerException

from reference import close, run
from tensors import EVERY_TYPE, image, inputs, of_every_type, rows, same

# FP16 and BF16 have no JSON form.
BINARY_ONLY = ("FP16", "BF16")
LENGTH = "Inference-Header-Content-Length"


@pytest.fixture
def client(server):
    with http.InferenceServerClient(server.http, concurrency=4) as client:
        yield client


@pytest.fixture
def post(server):
    """Posts an inference request directly, for parts of the protocol that no client supports."""

    def call(model, body, **headers):
        data = body if isinstance(body, bytes) else json.dumps(body)
        url = f"{server.url}/v2/models/{model}/infer"
        return requests.post(url, data=data, headers=headers, timeout=30)

    return call


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_binary_and_json_agree(client, binary_in, binary_out):
    a, b = rows(3, 2, 1), rows(3, 2, 2)
    wanted = [http.InferRequestedOutput(name, binary_data=binary_out) for name in ("sum", "product")]
    result = client.infer("two", inputs(http, binary_in, a=a, b=b), outputs=wanted)
    close(result.as_numpy("sum"), a + b)
    close(result.as_numpy("product"), a * b)
    for name in ("sum", "product"):
        assert ("data" in result.get_output(name)) is not binary_out


def test_outputs_may_be_partly_binary_and_partly_json(client):
    a, b = rows(3, 2, 1), rows(3, 2, 2)
    wanted = [http.InferRequestedOutput("sum"), http.InferRequestedOutput("product", binary_data=False)]
    result = client.infer("two", inputs(http, a=a, b=b), outputs=wanted)
    close(result.as_numpy("sum"), a + b)
    close(result.as_numpy("product"), a * b)


def test_every_type_as_json(client):
    binary = {k: v for k, v in of_every_type().items() if v[0] in BINARY_ONLY}
    others = of_every_type(leave=BINARY_ONLY)
    given = inputs(http, True, **binary) + inputs(http, False, **others)
    wanted = [
        http.InferRequestedOutput(f"out_{name}", binary_data=datatype in BINARY_ONLY)
        for datatype, (name, _) in EVERY_TYPE.items()
    ]
    result = client.infer("types", given, outputs=wanted)
    for datatype, (name, array) in EVERY_TYPE.items():
        same(datatype, result.as_numpy(f"out_{name}"), array)


@pytest.mark.parametrize("request_by", [None, "gzip", "deflate"])
@pytest.mark.parametrize("response_by", [None, "gzip", "deflate"])
def test_compression(client, request_by, response_by):
    x = image(side=96)
    result = client.infer(
        "image",
        inputs(http, image=x),
        request_compression_algorithm=request_by,
        response_compression_algorithm=response_by,
    )
    np.testing.assert_array_equal(result.as_numpy("copy"), x)


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_a_decompression_bomb_is_refused(server, post, encoding, pack):
    bomb = pack(b'{"inputs": [' + b" " * (600 << 20), 1)
    answer = post("tensor", bomb, **{"Content-Encoding": encoding, "Content-Type": "application/json"})
    assert answer.status_code == 413, answer.text
    assert answer.json()["error"]
    assert requests.get(f"{server.url}/v2/health/ready", timeout=10).status_code == 200


def test_an_undecodable_body_is_refused(post):
    answer = post("tensor", b"not gzip", **{"Content-Encoding": "gzip"})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]


def test_a_raw_body_is_used_as_the_only_input(post):
    x = rows(2)
    answer = post("tensor", x.tobytes(), **{LENGTH: "0", "Content-Type": "application/octet-stream"})
    assert answer.status_code == 200, answer.text
    length = int(answer.headers[LENGTH])
    described = json.loads(answer.content[:length])
    assert described["outputs"][0]["shape"] == [2, 3]
    y = np.frombuffer(answer.content[length:], dtype="<f4").reshape(2, 3)
    close(y, run("tiny/tensor_a", x=x)["y"])


def test_nested_and_flat_data_agree(post):
    x = rows(2)
    expected = run("tiny/tensor_a", x=x)["y"]
    for data in (x.tolist(), x.ravel().tolist()):
        tensor = {"name": "x", "shape": [2, 4], "datatype": "FP32", "data": data}
        answer = post("tensor", {"id": "7", "inputs": [tensor]}).json()
        assert answer["id"] == "7"
        assert answer["outputs"][0]["datatype"] == "FP32"
        close(np.reshape(answer["outputs"][0]["data"], (2, 3)), expected)


def tensor_body(**changes):
    return {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4], **changes}]}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        {},
        {"inputs": []},
        {"inputs": "x"},
        tensor_body(shape=[-1, 4]),
        tensor_body(shape=[2, 4]),
        tensor_body(shape=[1, 2**62]),
        tensor_body(shape=[2**32, 2**32]),
        tensor_body(data=["a", "b", "c", "d"]),
        tensor_body(data=[1, 2, 3]),
        tensor_body(datatype="FP99"),
        tensor_body(name="y"),
        {"inputs": tensor_body()["inputs"] * 2},
    ],
)
def test_malformed_requests_are_refused_with_the_reason(post, body):
    answer = post("tensor", body)
    assert 400 <= answer.status_code < 500, answer.text
    assert isinstance(answer.json()["error"], str) and answer.json()["error"]


@pytest.mark.parametrize("length", ["-1", "x", "999999", "3"])
def test_a_wrong_header_length_is_refused(post, length):
    answer = post("tensor", json.dumps(tensor_body()).encode(), **{LENGTH: length})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]


@pytest.mark.parametrize("size", [0, 15, 17, -1, 2**63])
def test_a_wrong_binary_size_is_refused(post, size):
    tensor = {"name": "x", "shape": [1, 4], "datatype": "FP32", "parameters": {"binary_data_size": size}}
    head = json.dumps({"inputs": [tensor]}).encode()
    answer = post("tensor", head + bytes(16), **{LENGTH: str(len(head))})
    assert answer.status_code == 400, answer.text


def test_false_lengths_of_bytes_elements_are_refused(post):
    lie = struct.pack("<I", 2**31) + b"abc"
    given = inputs(http, **of_every_type(leave=["BYTES"]))
    body, length = http.InferenceServerClient.generate_request_body(given)
    head = json.loads(body[:length])
    head["inputs"].append(
        {"name": "in_string", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": len(lie)}}
    )
    text = json.dumps(head).encode()
    answer = post("types", text + body[length:] + lie, **{LENGTH: str(len(text))})
    assert answer.status_code == 400, answer.text


def test_concurrent_requests_with_greenlets(client):
    given = [rows(count % 5 + 1, seed=count) for count in range(40)]
    pending = [client.async_infer("tensor", inputs(http, x=x)) for x in given]
    for x, one in zip(given, pending):
        close(one.get_result().as_numpy("y"), run("tiny/tensor_a", x=x)["y"])


def test_broadcast_inputs_do_not_affect_other_requests(client):
    """ONNX Runtime broadcasts the single row of `a`. Concurrent requests must not be affected."""
    given = [(rows(1 if n % 3 == 0 else 3, 2, n), rows(3, 2, n + 100)) for n in range(40)]
    pending = [client.async_infer("two", inputs(http, a=a, b=b)) for a, b in given]
    for (a, b), one in zip(given, pending):
        result = one.get_result()
        close(result.as_numpy("sum"), a + b)
        close(result.as_numpy("product"), a * b)


def test_concurrent_requests_with_asyncio(server):
    given = [rows(count % 5 + 1, seed=count) for count in range(40)]

    async def calls_all():
        async with http_aio.InferenceServerClient(server.http) as client:
            assert await client.is_server_live()
            assert (await client.get_model_metadata("tensor"))["name"] == "tensor"
            calls = [client.infer("tensor", inputs(http_aio, x=x)) for x in given]
            return await asyncio.gather(*calls)

    for x, result in zip(given, asyncio.run(calls_all())):
        close(result.as_numpy("y"), run("tiny/tensor_a", x=x)["y"])


def test_requests_built_and_parsed_offline(server):
    """generate_request_body and parse_response_body, for callers that post the body themselves."""
    x = rows(2)
    body, length = http.InferenceServerClient.generate_request_body(inputs(http, x=x))
    headers = {LENGTH: str(length)}
    answer = requests.post(f"{server.url}/v2/models/tensor/infer", data=body, headers=headers, timeout=30)
    result = http.InferenceServerClient.parse_response_body(
        answer.content, header_length=int(answer.headers[LENGTH])
    )
    close(result.as_numpy("y"), run("tiny/tensor_a", x=x)["y"])


def test_shared_memory_cannot_be_registered(client):
    """Clients must not refer to memory of this machine. The client understands the refusal."""
    with pytest.raises(InferenceServerException):
        client.register_system_shared_memory("mine", "/mine", 64)
