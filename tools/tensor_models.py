"""Tiny tensor models, each a directory with only model.onnx.

Called by tiny_models.py. numpy computes their expected outputs.
"""

import numpy as np
from onnx import TensorProto, helper

from bert_to_onnx import IR_VERSION, OPSET, Graph
from tiny_parts import write_onnx

# About 50 ms on one CPU of 2026; see `slow`.
SLOW_ROUNDS = 40_000

TYPES = {
    "bool": TensorProto.BOOL,
    "int8": TensorProto.INT8,
    "int16": TensorProto.INT16,
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
    "uint8": TensorProto.UINT8,
    "uint16": TensorProto.UINT16,
    "uint32": TensorProto.UINT32,
    "uint64": TensorProto.UINT64,
    "fp16": TensorProto.FLOAT16,
    "bf16": TensorProto.BFLOAT16,
    "fp32": TensorProto.FLOAT,
    "fp64": TensorProto.DOUBLE,
    "string": TensorProto.STRING,
}


def finish(graph, inputs, outputs):
    """Returns the model. Inputs and outputs are (name, shape[, type]); the default type is float32."""

    def values(described):
        for name, shape, *kind in described:
            yield helper.make_tensor_value_info(name, *(kind or [TensorProto.FLOAT]), shape)

    body = helper.make_graph(
        graph.nodes, "tensors", list(values(inputs)), list(values(outputs)), graph.initializers
    )
    return helper.make_model(
        body,
        producer_name="onnxd tensor_models",
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET)],
    )


def random(seed, *shape):
    return np.random.RandomState(seed).standard_normal(shape).astype(np.float32)


def affine(seed):
    """y = x · W + b."""
    weight, bias = random(seed, 4, 3), random(seed + 1, 3)
    graph = Graph()
    product = graph.node("MatMul", "product", ["x", graph.constant("weight", weight)])
    graph.node("Add", "y", [product, graph.constant("bias", bias)])
    x = random(100, 3, 4)
    y = x.astype(np.float64) @ weight + bias
    return finish(graph, [("x", ["batch", 4])], [("y", ["batch", 3])]), {"x": x, "y": y}


def fixed():
    """Accepts only [1, 3], so there is no second row to batch with."""
    graph = Graph()
    graph.node("Mul", "y", ["x", graph.constant("two", np.array(2, dtype=np.float32))])
    x = random(101, 1, 3)
    return finish(graph, [("x", [1, 3])], [("y", [1, 3])]), {"x": x, "y": 2 * x}


def mean():
    """y = x - mean over the first axis. Its rows depend on each other, although their number is free."""
    graph = Graph()
    axes = graph.constant("axes", np.array([0], dtype=np.int64))
    average = graph.node("ReduceMean", "average", ["x", axes], keepdims=1)
    graph.node("Sub", "y", ["x", average])
    x = random(102, 3, 4)
    return finish(graph, [("x", ["batch", 4])], [("y", ["batch", 4])]), {"x": x, "y": x - x.mean(0)}


def types():
    """Returns a tensor of each type unchanged."""
    graph = Graph()
    for name in TYPES:
        graph.node("Identity", f"out_{name}", [f"in_{name}"])
    inputs = [(f"in_{name}", ["n"], kind) for name, kind in TYPES.items()]
    outputs = [(f"out_{name}", ["n"], kind) for name, kind in TYPES.items()]
    return finish(graph, inputs, outputs)


def image():
    """Returns the image and the mean of each channel: large input and output, little computation."""
    graph = Graph()
    graph.node("Identity", "copy", ["image"])
    axes = graph.constant("axes", np.array([2, 3], dtype=np.int64))
    graph.node("ReduceMean", "mean", ["image", axes], keepdims=0)
    shape = ["batch", 3, "height", "width"]
    return finish(graph, [("image", shape)], [("copy", shape), ("mean", ["batch", 3])])


def two():
    graph = Graph()
    graph.node("Add", "sum", ["a", "b"])
    graph.node("Mul", "product", ["a", "b"])
    shape = ["batch", 2]
    a, b = random(103, 3, 2), random(104, 3, 2)
    model = finish(graph, [("a", shape), ("b", shape)], [("sum", shape), ("product", shape)])
    return model, {"a": a, "b": b, "sum": a + b, "product": a * b}


def negations(graph, rounds, one):
    """Adds a loop that negates a number `rounds` times."""

    def scalar(name, kind):
        return helper.make_tensor_value_info(name, kind, [])

    body = helper.make_graph(
        [
            helper.make_node("Identity", ["round.go"], ["round.on"]),
            helper.make_node("Neg", ["round.before"], ["round.after"]),
        ],
        "round",
        [
            scalar("round.index", TensorProto.INT64),
            scalar("round.go", TensorProto.BOOL),
            scalar("round.before", TensorProto.FLOAT),
        ],
        [scalar("round.on", TensorProto.BOOL), scalar("round.after", TensorProto.FLOAT)],
    )
    return graph.node("Loop", "rest", [rounds, "", one], body=body)


def slow():
    """y = x, after a loop that negates a number an even number of times."""
    graph = Graph()
    # Derived from the input, so that it cannot be computed when the model is loaded.
    one = graph.node("ReduceMax", "one", ["x"], keepdims=0)
    rounds = graph.constant("rounds", np.array(SLOW_ROUNDS, dtype=np.int64))
    rest = negations(graph, rounds, one)
    nothing = graph.node("Sub", "nothing", [rest, one])
    graph.node("Add", "y", ["x", nothing])
    x = random(105, 2, 4)
    return finish(graph, [("x", ["batch", 4])], [("y", ["batch", 4])]), {"x": x, "y": x}


def rounds():
    """y = rounds, after that many rounds of a loop. A large number hangs the worker."""
    graph = Graph()
    most = graph.node("ReduceMax", "most", ["rounds"], keepdims=0)
    one = graph.node("Cast", "one", [most], to=TensorProto.FLOAT)
    size = graph.node("Abs", "size", [negations(graph, most, one)])
    nothing = graph.node("Sub", "nothing", [size, size])
    whole = graph.node("Cast", "whole", [nothing], to=TensorProto.INT64)
    graph.node("Add", "y", ["rounds", whole])
    shape = ["batch"]
    int64 = TensorProto.INT64
    return finish(graph, [("rounds", shape, int64)], [("y", shape, int64)])


def divide():
    """quotient = a / b of integers. The minimum divided by -1 overflows and kills an x86 process by a signal."""
    graph = Graph()
    graph.node("Div", "quotient", ["a", "b"])
    shape, int64 = ["batch"], TensorProto.INT64
    return finish(graph, [("a", shape, int64), ("b", shape, int64)], [("quotient", shape, int64)])


def write(out):
    """Writes the models. Returns inputs and outputs by model, for those that compute something."""
    answered = {
        "tensor_a": affine(61),
        "tensor_b": affine(71),
        "tensor_fixed": fixed(),
        "tensor_mean": mean(),
        "tensor_slow": slow(),
        "tensor_two": two(),
    }
    models = {name: model for name, (model, _) in answered.items()}
    models |= {"tensor_types": types(), "tensor_image": image(), "tensor_rounds": rounds()}
    models |= {"tensor_divide": divide()}
    for name, model in models.items():
        (out / name).mkdir(parents=True)
        write_onnx(out / name, model)

    def rounded(array):
        return [[round(float(x), 7) for x in row] for row in array]

    return {
        name: {tensor: rounded(array) for tensor, array in tensors.items()}
        for name, (_, tensors) in answered.items()
    }
