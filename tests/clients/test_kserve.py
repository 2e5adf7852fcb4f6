"""kserve's clients for the Open Inference Protocol, over REST and gRPC. Their default retries are disabled."""

import asyncio
from unittest import mock

import grpc
import httpx
import numpy as np
import pytest
from google.protobuf.descriptor_pool import DescriptorPool

# kserve and tritonclient register the protocol's messages under the same names, which a process can
# do only once. kserve's messages get a separate pool.
with mock.patch("google.protobuf.descriptor_pool.Default", return_value=DescriptorPool()):
    from kserve import InferInput, InferRequest, InferenceGRPCClient, InferenceRESTClient
    from kserve.inference_client import RESTConfig

from reference import close, run
from tensors import EVERY_TYPE, image, of_every_type, rows, same

# kserve's clients do not support BF16.
UNKNOWN = ["BF16"]


class Rest:
    def __init__(self, server):
        self.url = server.url
        self.client = InferenceRESTClient(RESTConfig(protocol="v2", retries=0))

    def infer(self, request):
        return self.client.infer(self.url, request, model_name=request.model_name)

    def live(self):
        return self.client.is_server_live(self.url)

    def ready(self):
        return self.client.is_server_ready(self.url)

    def model_ready(self, model):
        return self.client.is_model_ready(self.url, model)


class Grpc:
    def __init__(self, server):
        options = [("grpc.enable_retries", 0), ("grpc.max_receive_message_length", 64 << 20)]
        self.client = InferenceGRPCClient(server.grpc, channel_args=options, retries=0)

    def infer(self, request):
        return self.client.infer(request)

    def live(self):
        return self.client.is_server_live()

    def ready(self):
        return self.client.is_server_ready()

    def model_ready(self, model):
        return self.client.is_model_ready(model)


@pytest.fixture(params=[Rest, Grpc])
def ask(request, server):
    """Runs a coroutine with a client, which must be created in the same event loop."""

    def run_with(function):
        async def whole():
            kserve = request.param(server)
            async with kserve.client:
                return await function(kserve)

        return asyncio.run(whole())

    run_with.kind = request.param
    return run_with


def request_of(model, binary=True, request_id=None, **arrays):
    made = []
    for name, given in arrays.items():
        datatype, array = given if isinstance(given, tuple) else ("FP32", given)
        tensor = InferInput(name, list(array.shape), datatype)
        tensor.set_data_from_numpy(array, binary_data=binary)
        made.append(tensor)
    return InferRequest(model_name=model, infer_inputs=made, request_id=request_id)


def outputs(response):
    return {output.name: output.as_numpy() for output in response.outputs}


def test_health(ask):
    async def checks(kserve):
        return await kserve.live(), await kserve.ready(), await kserve.model_ready("tensor")

    assert ask(checks) == (True, True, True)


@pytest.mark.parametrize("binary", [True, False])
def test_inference(ask, binary):
    a, b = rows(3, 2, 1), rows(3, 2, 2)
    response = ask(lambda kserve: kserve.infer(request_of("two", binary, "an id", a=a, b=b)))
    assert response.model_name == "two"
    assert response.id == "an id"
    close(outputs(response)["sum"], a + b)
    close(outputs(response)["product"], a * b)


def test_every_type_but_bf16(ask):
    """The model requires all of its inputs, so bf16 is sent as raw bytes."""
    if ask.kind is Grpc:
        pytest.skip("kserve's gRPC client cannot send an unsupported datatype")
    arrays = of_every_type(leave=UNKNOWN)
    request = request_of("types", **arrays)
    bf16 = InferInput("in_bf16", [3], "BF16")
    bf16._raw_data = EVERY_TYPE["BF16"][1].tobytes()
    bf16._parameters = {"binary_data_size": len(bf16._raw_data)}
    request.inputs.append(bf16)
    response = ask(lambda kserve: kserve.infer(request))
    for output in response.outputs:
        datatype = output.datatype
        if datatype not in UNKNOWN:
            same(datatype, output.as_numpy(), EVERY_TYPE[datatype][1])


def test_large_tensors(ask):
    x = image(side=640)
    response = ask(lambda kserve: kserve.infer(request_of("image", image=x)))
    np.testing.assert_array_equal(outputs(response)["copy"], x)


def test_concurrent_requests(ask):
    given = [rows(count % 5 + 1, seed=count) for count in range(30)]

    async def calls_all(kserve):
        return await asyncio.gather(*(kserve.infer(request_of("tensor", x=x)) for x in given))

    for x, response in zip(given, ask(calls_all)):
        close(outputs(response)["y"], run("tiny/tensor_a", x=x)["y"])


@pytest.mark.parametrize(("model", "says"), [("nobody", "nobody"), ("tensor", "x")])
def test_refusals_state_the_reason(ask, model, says):
    with pytest.raises((httpx.HTTPStatusError, grpc.RpcError)) as refused:
        ask(lambda kserve: kserve.infer(request_of(model, z=rows(1))))
    if ask.kind is Rest:
        assert says in str(refused.value)
        assert 400 <= refused.value.response.status_code < 500
    else:
        assert says in refused.value.details()


def test_a_request_may_be_a_plain_dict(server):
    x = rows(2)
    body = {"inputs": [{"name": "x", "shape": [2, 4], "datatype": "FP32", "data": x.ravel().tolist()}]}

    async def call():
        async with InferenceRESTClient(RESTConfig(protocol="v2", retries=0)) as client:
            return await client.infer(server.url, body, model_name="tensor")

    close(outputs(asyncio.run(call()))["y"], run("tiny/tensor_a", x=x)["y"])
