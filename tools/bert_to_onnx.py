#!/usr/bin/env python3
"""Converts a BERT-family model (config.json, model.safetensors) to ONNX.

    python bert_to_onnx.py SOURCE_DIR OUT_DIR [--perturb SEED | --head LABELS SEED]

Writes OUT_DIR/model.onnx and copies the tokenizer and configuration files next to it. The same input
always produces the same bytes. Inputs: input_ids, attention_mask, token_type_ids
(int64, [batch, sequence]). Output: last_hidden_state ([batch, sequence, hidden]), or logits
([batch, labels]) for a BertForSequenceClassification.
"""

import argparse
import json
import math
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 20  # the first with Gelu
IR_VERSION = 9  # matches opset 20; newer versions of onnx would write a higher one

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
OUTPUT = "last_hidden_state"
LOGITS = "logits"
CLASSIFIER = "BertForSequenceClassification"

COPIED = (
    "tokenizer.json",
    "config.json",
    "modules.json",
    "1_Pooling/config.json",
    "sentence_bert_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
)

# Files that describe how a sentence embedder uses the model.
EMBEDDER_ONLY = ("modules.json", "1_Pooling/config.json", "sentence_bert_config.json")

# hidden_act in config.json: operator and attributes.
ACTIVATIONS = {
    "gelu": ("Gelu", {}),
    "gelu_new": ("Gelu", {"approximate": "tanh"}),
    "gelu_pytorch_tanh": ("Gelu", {"approximate": "tanh"}),
    "relu": ("Relu", {}),
}

# Noise added by --perturb, relative to the weights' standard deviation.
PERTURBATION = 0.25


class ConversionError(Exception):
    """The source cannot be converted; the message gives the reason in one line."""


class Weights:
    """The tensors of a checkpoint, looked up by name and checked."""

    def __init__(self, tensors):
        self._tensors = tensors
        # BertModel has no prefix; BertForMaskedLM and similar classes put the model under `bert.`.
        self._prefix = "bert." if any(name.startswith("bert.") for name in tensors) else ""

    def take(self, name, *shape):
        # The classifier is next to the model, not part of it.
        full = name if name.startswith("classifier.") else self._prefix + name
        if full not in self._tensors:
            raise ConversionError(f"tensor {full} is missing")
        tensor = self._tensors[full]
        if tensor.dtype not in (np.float16, np.float32, np.float64):
            raise ConversionError(f"tensor {full} has unsupported type {tensor.dtype}")
        if tensor.shape != shape:
            raise ConversionError(
                f"tensor {full} has shape {list(tensor.shape)}, expected {list(shape)} according to config.json"
            )
        return np.ascontiguousarray(tensor, dtype=np.float32)


class Graph:
    """Collects nodes and initializers. Every value has the name of its node."""

    def __init__(self):
        self.nodes = []
        self.initializers = []

    def constant(self, name, array):
        self.initializers.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def node(self, operator, name, inputs, **attributes):
        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name


def setting(config, name):
    if name not in config:
        raise ConversionError(f"config.json has no {name}")
    return config[name]


def check_config(config):
    """Rejects configurations that this converter would silently miscompute."""
    architectures = config.get("architectures") or []
    if config.get("model_type") != "bert" or any(not a.startswith("Bert") for a in architectures):
        name = ", ".join(architectures) or config.get("model_type")
        raise ConversionError(f"architecture {name} is not supported, only BERT is")
    if config.get("position_embedding_type", "absolute") != "absolute":
        kind = config["position_embedding_type"]
        raise ConversionError(f"position_embedding_type {kind} is not supported")
    if config.get("is_decoder") or config.get("add_cross_attention"):
        raise ConversionError("a BERT decoder is not supported, only the encoder is")
    if config.get("hidden_act", "gelu") not in ACTIVATIONS:
        raise ConversionError(f"hidden_act {config['hidden_act']} is not supported")
    if setting(config, "hidden_size") % setting(config, "num_attention_heads"):
        raise ConversionError("hidden_size is not a multiple of num_attention_heads")


def linear(graph, weights, name, x, rows, columns):
    """x · Wᵀ + b. The checkpoint stores W as [columns, rows]."""
    weight = weights.take(f"{name}.weight", columns, rows)
    bias = weights.take(f"{name}.bias", columns)
    # Transpose here, once, instead of on every load.
    matrix = graph.constant(f"{name}.weight", np.ascontiguousarray(weight.T))
    product = graph.node("MatMul", f"{name}.matmul", [x, matrix])
    return graph.node("Add", f"{name}.out", [product, graph.constant(f"{name}.bias", bias)])


def layer_norm(graph, weights, name, x, config):
    hidden = config["hidden_size"]
    scale = graph.constant(f"{name}.weight", weights.take(f"{name}.weight", hidden))
    bias = graph.constant(f"{name}.bias", weights.take(f"{name}.bias", hidden))
    epsilon = float(config.get("layer_norm_eps", 1e-12))
    return graph.node("LayerNormalization", f"{name}.out", [x, scale, bias], axis=-1, epsilon=epsilon)


def embeddings(graph, weights, config):
    hidden = config["hidden_size"]

    def table(kind, rows):
        name = f"embeddings.{kind}_embeddings.weight"
        return graph.constant(name, weights.take(name, setting(config, rows), hidden))

    words = graph.node(
        "Gather", "embeddings.words", [table("word", "vocab_size"), "input_ids"], axis=0
    )
    types = graph.node(
        "Gather", "embeddings.types", [table("token_type", "type_vocab_size"), "token_type_ids"], axis=0
    )
    # Use Slice, not Range with Gather: ONNX Runtime 1.31 fuses that form into one that fails.
    length = graph.node("Shape", "embeddings.length", ["input_ids"], start=1, end=2)
    zero = graph.constant("embeddings.zero", np.array([0], dtype=np.int64))
    positions = graph.node(
        "Slice",
        "embeddings.positions",
        [table("position", "max_position_embeddings"), zero, length, zero],
    )
    typed = graph.node("Add", "embeddings.typed", [words, types])
    placed = graph.node("Add", "embeddings.placed", [typed, positions])
    return layer_norm(graph, weights, "embeddings.LayerNorm", placed, config)


def attention_bias(graph):
    """Returns 0 where the mask is 1 and the lowest float where it is 0: [batch, 1, 1, sequence]."""
    mask = graph.node("Cast", "mask.float", ["attention_mask"], to=TensorProto.FLOAT)
    axes = graph.constant("mask.axes", np.array([1, 2], dtype=np.int64))
    spread = graph.node("Unsqueeze", "mask.spread", [mask, axes])
    one = graph.constant("mask.one", np.array(1, dtype=np.float32))
    lowest = graph.constant("mask.lowest", np.array(np.finfo(np.float32).min, dtype=np.float32))
    masked = graph.node("Sub", "mask.masked", [one, spread])
    return graph.node("Mul", "mask.bias", [masked, lowest])


def attention(graph, weights, layer, x, bias, config):
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    name = f"{layer}.attention.self"
    split = graph.constant(f"{name}.split", np.array([0, 0, heads, hidden // heads], dtype=np.int64))
    merged = graph.constant(f"{name}.merged", np.array([0, 0, hidden], dtype=np.int64))
    scale = graph.constant(f"{name}.scale", np.array(math.sqrt(hidden // heads), dtype=np.float32))

    def part(kind, permutation):
        value = linear(graph, weights, f"{name}.{kind}", x, hidden, hidden)
        value = graph.node("Reshape", f"{name}.{kind}.split", [value, split])
        return graph.node("Transpose", f"{name}.{kind}.heads", [value], perm=permutation)

    query = part("query", [0, 2, 1, 3])
    key = part("key", [0, 2, 3, 1])
    value = part("value", [0, 2, 1, 3])
    scores = graph.node("MatMul", f"{name}.scores", [query, key])
    scores = graph.node("Div", f"{name}.scaled", [scores, scale])
    scores = graph.node("Add", f"{name}.biased", [scores, bias])
    shares = graph.node("Softmax", f"{name}.shares", [scores], axis=-1)
    context = graph.node("MatMul", f"{name}.context", [shares, value])
    context = graph.node("Transpose", f"{name}.gathered", [context], perm=[0, 2, 1, 3])
    return graph.node("Reshape", f"{name}.out", [context, merged])


def encoder_layer(graph, weights, layer, x, bias, config):
    hidden = config["hidden_size"]
    inner = setting(config, "intermediate_size")
    operator, attributes = ACTIVATIONS[config.get("hidden_act", "gelu")]

    def residual(name, value, before, rows):
        value = linear(graph, weights, f"{name}.dense", value, rows, hidden)
        value = graph.node("Add", f"{name}.residual", [value, before])
        return layer_norm(graph, weights, f"{name}.LayerNorm", value, config)

    context = attention(graph, weights, layer, x, bias, config)
    attended = residual(f"{layer}.attention.output", context, x, hidden)
    wide = linear(graph, weights, f"{layer}.intermediate.dense", attended, hidden, inner)
    active = graph.node(operator, f"{layer}.intermediate.active", [wide], **attributes)
    return residual(f"{layer}.output", active, attended, inner)


def is_classifier(config):
    return CLASSIFIER in (config.get("architectures") or [])


def classify(graph, weights, x, config):
    """Returns the logits: a dense layer with tanh on the first token's state, then a linear layer."""
    hidden, labels = config["hidden_size"], len(setting(config, "id2label"))
    first = graph.constant("pooler.first", np.array(0, dtype=np.int64))
    state = graph.node("Gather", "pooler.state", [x, first], axis=1)
    dense = linear(graph, weights, "pooler.dense", state, hidden, hidden)
    pooled = graph.node("Tanh", "pooler.out", [dense])
    return linear(graph, weights, "classifier", pooled, hidden, labels)


def build_model(weights, config):
    """Returns the ONNX model for a checkpoint's tensors (by name) and its config.json."""
    check_config(config)
    graph = Graph()
    source = Weights(weights)
    x = embeddings(graph, source, config)
    bias = attention_bias(graph)
    for index in range(setting(config, "num_hidden_layers")):
        x = encoder_layer(graph, source, f"encoder.layer.{index}", x, bias, config)
    shape = ["batch", "sequence"]
    if is_classifier(config):
        output, output_shape = LOGITS, ["batch", len(config["id2label"])]
        x = classify(graph, source, x, config)
    else:
        output, output_shape = OUTPUT, shape + [config["hidden_size"]]
    graph.node("Identity", output, [x])

    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name in INPUTS]
    outputs = [helper.make_tensor_value_info(output, TensorProto.FLOAT, output_shape)]
    body = helper.make_graph(graph.nodes, "bert", inputs, outputs, graph.initializers)
    return helper.make_model(
        body,
        producer_name="onnxd bert_to_onnx",
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET)],
    )


def perturb(weights, seed):
    """Returns a variant of the model with seeded noise on the output of its first encoder layer."""
    found = [name for name in weights if name.endswith("encoder.layer.0.output.dense.weight")]
    if not found:
        raise ConversionError("tensor encoder.layer.0.output.dense.weight is missing")
    original = weights[found[0]]
    # Unlike default_rng, RandomState produces the same stream in every version of numpy.
    noise = np.random.RandomState(seed).standard_normal(original.shape)
    changed = original + PERTURBATION * float(original.std()) * noise
    return {**weights, found[0]: changed.astype(original.dtype)}


def labelled(config, names):
    """Returns the configuration of a classifier with these labels on the same encoder."""
    return {
        **config,
        "architectures": [CLASSIFIER],
        "id2label": {str(index): name for index, name in enumerate(names)},
        "label2id": {name: index for index, name in enumerate(names)},
    }


def random_head(config, seed):
    """Returns seeded weights of pooler and classifier, large enough to tell texts apart."""
    random = np.random.RandomState(seed)
    hidden, labels = setting(config, "hidden_size"), len(setting(config, "id2label"))
    shapes = {"pooler.dense": (hidden, hidden), "classifier": (labels, hidden)}
    head = {}
    for name, shape in shapes.items():
        weight = random.standard_normal(shape) * 2 * hidden**-0.5
        head[f"{name}.weight"] = weight.astype(np.float32)
        head[f"{name}.bias"] = (0.1 * random.standard_normal(shape[0])).astype(np.float32)
    return head


def with_head(weights, config, labels, seed):
    """Returns the model as a classifier. An existing pooler is replaced."""
    config = labelled(config, [f"LABEL_{index}" for index in range(labels)])
    prefix = "bert." if any(name.startswith("bert.") for name in weights) else ""
    head = random_head(config, seed)
    named = {name if name.startswith("classifier.") else prefix + name: head[name] for name in head}
    return {**weights, **named}, config


def read_source(directory):
    """Returns the tensors and the config.json of a directory."""
    # Only the command line needs safetensors: tiny_models.py already has its weights.
    from safetensors.numpy import load_file

    try:
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        return load_file(directory / "model.safetensors"), config
    except Exception as error:  # OSError, JSONDecodeError, SafetensorError, TypeError for bfloat16
        raise ConversionError(f"cannot read {directory}: {' '.join(str(error).split())}") from error


def copy_companions(source, out, leave=()):
    for name in COPIED:
        if name not in leave and (source / name).is_file() and source.resolve() != out.resolve():
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, out / name)


def main():
    parser = argparse.ArgumentParser(description="Converts a BERT-family model to ONNX.")
    parser.add_argument("source", type=Path, help="directory with config.json and model.safetensors")
    parser.add_argument("out", type=Path, help="directory to write model.onnx to")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument(
        "--perturb", type=int, metavar="SEED", help="create a variant by adding seeded noise to a weight"
    )
    kind.add_argument(
        "--head",
        type=int,
        nargs=2,
        metavar=("LABELS", "SEED"),
        help="create a classifier with seeded weights, or a reranker if there is one label",
    )
    arguments = parser.parse_args()
    try:
        weights, config = read_source(arguments.source)
        if arguments.perturb is not None:
            weights = perturb(weights, arguments.perturb)
        if arguments.head is not None:
            weights, config = with_head(weights, config, *arguments.head)
        model = build_model(weights, config)
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "model.onnx").write_bytes(model.SerializeToString(deterministic=True))
        if arguments.head is None:
            copy_companions(arguments.source, arguments.out)
        else:
            copy_companions(arguments.source, arguments.out, leave=(*EMBEDDER_ONLY, "config.json"))
            text = json.dumps(config, indent=2) + "\n"
            (arguments.out / "config.json").write_text(text, encoding="utf-8")
    except (ConversionError, OSError) as error:
        sys.exit(f"bert_to_onnx: {error}")


if __name__ == "__main__":
    main()
