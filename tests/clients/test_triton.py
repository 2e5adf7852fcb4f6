"""tritonclient over HTTP and gRPC: health, metadata and inference."""

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

from reference import close, run, tiny
from tensors import EVERY_TYPE, image, inputs, of_every_type, rows, same


class Triton:
    """One of the two clients, hiding their differences."""

    def __init__(self, kind, server):
        self.kind = kind
        self.module = tritonclient.http if kind == "http" else tritonclient.grpc
        address = server.http if kind == "http" else server.grpc
        self.client = self.module.InferenceServerClient(address)

    def inputs(self, **arrays):
        return inputs(self.module, **arrays)

    def outputs(self, *names):
        return [self.module.InferRequestedOutput(name) for name in names]

    def infer(self, model, outputs=None, more=None, **arrays):
        wanted = outputs and self.outputs(*outputs)
        return self.client.infer(model, self.inputs(**arrays), outputs=wanted, **(more or {}))

    def json(self, call, *arguments):
        """Returns the answer as a dict, which HTTP does by default. gRPC prints 64-bit integers as strings."""
        return call(*arguments) if self.kind == "http" else call(*arguments, as_json=True)


@pytest.fixture(params=["http", "grpc"])
def triton(request, server):
    found = Triton(request.param, server)
    with found.client:
        yield found


def test_health(triton):
    assert triton.client.is_server_live()
    assert triton.client.is_server_ready()
    for model in ("minilm", "tensor", "rerank"):
        assert triton.client.is_model_ready(model)
    assert not triton.client.is_model_ready("nobody")


def test_server_metadata(triton):
    metadata = triton.json(triton.client.get_server_metadata)
    assert metadata["name"] == "onnxd"
    assert metadata["version"]
    assert "binary_tensor_data" in metadata["extensions"]
    assert "model_repository" in metadata["extensions"]


def test_model_metadata(triton):
    metadata = triton.json(triton.client.get_model_metadata, "tensor")
    assert metadata["name"] == "tensor"
    assert metadata["platform"] == "onnx_onnxv1"
    assert metadata["versions"]

    def described(tensors):
        return [(t["name"], t["datatype"], [int(size) for size in t["shape"]]) for t in tensors]

    assert described(metadata["inputs"]) == [("x", "FP32", [-1, 4])]
    assert described(metadata["outputs"]) == [("y", "FP32", [-1, 3])]
    types = triton.json(triton.client.get_model_metadata, "types")
    assert described(types["inputs"]) == [
        (f"in_{name}", datatype, [-1]) for datatype, (name, _) in EVERY_TYPE.items()
    ]
    fixed = triton.json(triton.client.get_model_metadata, "fixed")
    assert described(fixed["inputs"]) == [("x", "FP32", [1, 3])]


def test_model_config(triton):
    config = triton.json(triton.client.get_model_config, "tensor")
    config = config.get("config", config)
    assert config["name"] == "tensor"
    assert [tensor["name"] for tensor in config["input"]] == ["x"]
    assert [tensor["data_type"] for tensor in config["output"]] == ["TYPE_FP32"]


def test_statistics_count_inferences(triton):
    def count():
        answer = triton.json(triton.client.get_inference_statistics, "two")
        found = [entry for entry in answer["model_stats"] if entry["name"] == "two"]
        return sum(int(entry["inference_stats"]["success"].get("count", 0)) for entry in found)

    before = count()
    triton.infer("two", a=rows(1, 2), b=rows(1, 2))
    assert count() == before + 1
    of_all = triton.json(triton.client.get_inference_statistics)
    assert {"minilm", "tensor", "two"} <= {entry["name"] for entry in of_all["model_stats"]}


def test_outputs_match_the_numpy_reference(triton):
    for served, name in (("tensor", "tensor_a"), ("mean", "tensor_mean"), ("fixed", "tensor_fixed")):
        expected = tiny()["tensors"][name]
        result = triton.infer(served, x=np.array(expected["x"], dtype=np.float32))
        close(result.as_numpy("y"), expected["y"])


def test_two_inputs_and_two_outputs(triton):
    a, b = rows(5, 2, 1), rows(5, 2, 2)
    result = triton.infer("two", a=a, b=b)
    close(result.as_numpy("sum"), a + b)
    close(result.as_numpy("product"), a * b)
    assert result.as_numpy("sum").dtype == np.float32


def test_the_order_of_inputs_does_not_matter(triton):
    a, b = rows(2, 2, 1), rows(2, 2, 2)
    close(triton.infer("two", b=b, a=a).as_numpy("product"), a * b)


def test_only_requested_outputs_are_sent(triton):
    a, b = rows(2, 2, 1), rows(2, 2, 2)
    result = triton.infer("two", outputs=["product"], a=a, b=b)
    close(result.as_numpy("product"), a * b)
    assert result.as_numpy("sum") is None
    both = triton.infer("two", outputs=["product", "sum"], a=a, b=b)
    close(both.as_numpy("sum"), a + b)


@pytest.mark.parametrize("count", [0, 1, 7, 300])
def test_any_number_of_rows(triton, count):
    x = rows(count)
    close(triton.infer("tensor", x=x).as_numpy("y"), run("tiny/tensor_a", x=x)["y"])


def test_every_type_survives_a_round_trip(triton):
    result = triton.infer("types", **of_every_type())
    for datatype, (name, array) in EVERY_TYPE.items():
        same(datatype, result.as_numpy(f"out_{name}"), array)


def test_bytes_elements_may_have_different_lengths(triton):
    texts = np.array(["", "x" * 70_000, "naïve"], dtype=object)
    arrays = {**of_every_type(leave=["BYTES"]), "in_string": ("BYTES", texts)}
    same("BYTES", triton.infer("types", **arrays).as_numpy("out_string"), texts)


def test_dependent_rows_of_a_request_stay_together(triton):
    x = rows(6)
    close(triton.infer("mean", x=x).as_numpy("y"), x - x.mean(0))


def test_large_tensors(triton):
    x = image(side=640)
    result = triton.infer("image", image=x)
    np.testing.assert_array_equal(result.as_numpy("copy"), x)
    close(result.as_numpy("mean"), x.mean((2, 3)))


def test_the_request_id_is_echoed(triton):
    result = triton.infer("tensor", x=rows(1), more={"request_id": "my request/1"})
    response = result.get_response()
    assert (response["id"] if triton.kind == "http" else response.id) == "my request/1"


def test_the_response_names_model_and_generation(triton):
    response = triton.infer("tensor", x=rows(1)).get_response()
    if triton.kind == "http":
        assert response["model_name"] == "tensor"
        assert int(response["parameters"]["generation"]) >= 1
    else:
        assert response.model_name == "tensor"
        assert response.parameters["generation"].int64_param >= 1


def test_the_version_in_the_metadata_can_be_requested(triton):
    version = triton.json(triton.client.get_model_metadata, "tensor")["versions"][0]
    x = rows(2)
    result = triton.infer("tensor", x=x, more={"model_version": version})
    close(result.as_numpy("y"), run("tiny/tensor_a", x=x)["y"])
    assert triton.client.is_model_ready("tensor", version)


@pytest.mark.parametrize(
    ("model", "arrays", "says"),
    [
        ("nobody", {"x": rows(1)}, "nobody"),
        ("tensor", {"z": rows(1)}, "x"),
        ("tensor", {"x": rows(1), "z": rows(1)}, "z"),
        ("tensor", {"x": rows(1, 5)}, "shape"),
        ("tensor", {"x": rows(1).astype(np.float64)}, "FP64"),
        ("tensor", {"x": np.zeros((1, 1, 4), dtype=np.float32)}, "shape"),
        ("two", {"a": rows(1, 2)}, "b"),
        ("fixed", {"x": rows(2, 3)}, "shape"),
    ],
)
def test_mismatched_inputs_are_refused_with_the_reason(triton, model, arrays, says):
    with pytest.raises(InferenceServerException) as refused:
        triton.infer(model, **arrays)
    assert says in refused.value.message()
    expected = {"http": ("400", "404", "422"), "grpc": ("INVALID_ARGUMENT", "NOT_FOUND")}[triton.kind]
    assert any(code in str(refused.value.status()) for code in expected), refused.value.status()


def test_an_unknown_output_is_refused(triton):
    with pytest.raises(InferenceServerException) as refused:
        triton.infer("tensor", outputs=["nothing"], x=rows(1))
    assert "nothing" in refused.value.message()


def test_metadata_of_an_unknown_model_is_refused(triton):
    for call in (triton.client.get_model_metadata, triton.client.get_model_config):
        with pytest.raises(InferenceServerException) as refused:
            call("nobody")
        assert "nobody" in refused.value.message()


def test_the_server_keeps_serving_after_refusals(triton):
    for _ in range(20):
        with pytest.raises(InferenceServerException):
            triton.infer("tensor", x=rows(1, 9))
    x = rows(3)
    close(triton.infer("tensor", x=x).as_numpy("y"), run("tiny/tensor_a", x=x)["y"])
