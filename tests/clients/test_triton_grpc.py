"""Features that only tritonclient.grpc has, and gRPC's health and reflection services."""

import asyncio
import queue

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from reference import close, run
from tensors import EVERY_TYPE, image, inputs, rows, same


@pytest.fixture
def client(server):
    with triton.InferenceServerClient(server.grpc) as client:
        yield client


@pytest.fixture
def stub(server):
    with grpc.insecure_channel(server.grpc) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def test_concurrent_requests_with_callbacks(client):
    given = [rows(count % 5 + 1, seed=count) for count in range(40)]
    answers = queue.Queue()
    for index, x in enumerate(given):

        def callback(result, error, index=index):
            answers.put((index, result, error))

        client.async_infer("tensor", inputs(triton, x=x), callback)
    for _ in given:
        index, result, error = answers.get(timeout=30)
        assert error is None, error
        close(result.as_numpy("y"), run("tiny/tensor_a", x=given[index])["y"])


def test_concurrent_requests_with_asyncio(server):
    given = [rows(count % 5 + 1, seed=count) for count in range(40)]

    async def calls_all():
        async with triton_aio.InferenceServerClient(server.grpc) as client:
            assert await client.is_server_live()
            assert await client.is_model_ready("tensor")
            return await asyncio.gather(*(client.infer("tensor", inputs(triton_aio, x=x)) for x in given))

    for x, result in zip(given, asyncio.run(calls_all())):
        close(result.as_numpy("y"), run("tiny/tensor_a", x=x)["y"])


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compression(client, algorithm):
    x = image(side=96)
    result = client.infer("image", inputs(triton, image=x), compression_algorithm=algorithm)
    np.testing.assert_array_equal(result.as_numpy("copy"), x)


def test_a_client_timeout_is_accepted(client):
    x = rows(1)
    result = client.infer("tensor", inputs(triton, x=x), client_timeout=20)
    close(result.as_numpy("y"), run("tiny/tensor_a", x=x)["y"])


def test_typed_contents(stub):
    fields = {
        "BOOL": "bool_contents",
        "INT8": "int_contents",
        "INT16": "int_contents",
        "INT32": "int_contents",
        "INT64": "int64_contents",
        "UINT8": "uint_contents",
        "UINT16": "uint_contents",
        "UINT32": "uint_contents",
        "UINT64": "uint64_contents",
        "FP32": "fp32_contents",
        "FP64": "fp64_contents",
        "BYTES": "bytes_contents",
    }
    a, b = rows(2, 2, 1), rows(2, 2, 2)
    request = service_pb2.ModelInferRequest(model_name="two", id="typed")
    for name, array in (("a", a), ("b", b)):
        tensor = request.inputs.add(name=name, datatype="FP32", shape=array.shape)
        getattr(tensor.contents, fields["FP32"]).extend(array.ravel().tolist())
    response = stub.ModelInfer(request, timeout=20)
    assert response.id == "typed"
    values = {
        output.name: np.frombuffer(raw, dtype="<f4").reshape(output.shape)
        for output, raw in zip(response.outputs, response.raw_output_contents)
    }
    close(values["sum"], a + b)
    close(values["product"], a * b)


def every_type_request():
    request = service_pb2.ModelInferRequest(model_name="types")
    for datatype, (name, array) in EVERY_TYPE.items():
        request.inputs.add(name=f"in_{name}", datatype=datatype, shape=[len(array)])
    return request


def test_fp16_and_bf16_must_be_raw(stub):
    request = every_type_request()
    for tensor in request.inputs:
        tensor.contents.fp32_contents.extend([1.0, 2.0, 3.0])
    with pytest.raises(grpc.RpcError) as refused:
        stub.ModelInfer(request, timeout=20)
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_raw_and_typed_contents_together_are_refused(stub):
    request = service_pb2.ModelInferRequest(model_name="tensor")
    tensor = request.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    tensor.contents.fp32_contents.extend([1, 2, 3, 4])
    request.raw_input_contents.append(rows(1).tobytes())
    with pytest.raises(grpc.RpcError) as refused:
        stub.ModelInfer(request, timeout=20)
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("raw", [[], [b""], [b"123"], [bytes(16), bytes(16)]])
def test_mismatched_raw_contents_are_refused(stub, raw):
    request = service_pb2.ModelInferRequest(model_name="tensor")
    request.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    request.raw_input_contents.extend(raw)
    with pytest.raises(grpc.RpcError) as refused:
        stub.ModelInfer(request, timeout=20)
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert refused.value.details()


def test_an_unknown_model_is_not_found(client):
    with pytest.raises(InferenceServerException) as refused:
        client.infer("nobody", inputs(triton, x=rows(1)))
    assert "NOT_FOUND" in refused.value.status()


def test_the_public_address_refuses_changes(client):
    """Only the admin address, over HTTP, accepts changes."""
    for change in (client.load_model, client.unload_model):
        with pytest.raises(InferenceServerException):
            change("tensor")
    assert client.is_model_ready("tensor")


def call(server, path, request=b""):
    """Makes a call without generated code; these services' messages are a few bytes."""
    with grpc.insecure_channel(server.grpc) as channel:
        return channel.unary_unary(path)(request, timeout=20)


def test_the_standard_health_service(server):
    serving = b"\x08\x01"
    assert call(server, "/grpc.health.v1.Health/Check") == serving
    name = b"inference.GRPCInferenceService"
    assert call(server, "/grpc.health.v1.Health/Check", b"\x0a" + bytes([len(name)]) + name) == serving
    with pytest.raises(grpc.RpcError) as refused:
        call(server, "/grpc.health.v1.Health/Check", b"\x0a\x06nobody")
    assert refused.value.code() == grpc.StatusCode.NOT_FOUND


def test_reflection_lists_the_services(server):
    with grpc.insecure_channel(server.grpc) as channel:
        for version in ("v1", "v1alpha"):
            path = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
            # list_services is field 7.
            answers = channel.stream_stream(path)(iter([b"\x3a\x01*"]), timeout=20)
            assert b"inference.GRPCInferenceService" in next(answers)


def test_raw_contents_of_every_type(stub):
    request = every_type_request()
    for datatype, (_, array) in EVERY_TYPE.items():
        if datatype == "BYTES":
            parts = [text.encode() for text in array]
            raw = b"".join(len(part).to_bytes(4, "little") + part for part in parts)
        else:
            raw = array.tobytes()
        request.raw_input_contents.append(raw)
    response = stub.ModelInfer(request, timeout=20)
    assert list(response.raw_output_contents) == list(request.raw_input_contents)
    assert [output.datatype for output in response.outputs] == list(EVERY_TYPE)
    same("FP32", np.frombuffer(response.raw_output_contents[11], dtype="<f4"), EVERY_TYPE["FP32"][1])
