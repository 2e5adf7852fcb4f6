#!/usr/bin/env python3
"""Generates tiny random models for the tests: valid ones, and one for each kind of invalid model.

    python tiny_models.py OUT_DIR

Each is a directory in the layout of the Hugging Face hub. OUT_DIR/reference.json holds the results of
the valid ones, computed by bert_reference.py or numpy. Everything is seeded, so every run produces the
same files. Classifiers and rerankers are in tiny_heads.py, models for long texts in tiny_long.py, tensor
models in tensor_models.py.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

import tensor_models
import tiny_heads
import tiny_long
from bert_reference import embed, tokenize
from bert_to_onnx import OUTPUT, Graph
from tiny_parts import (
    MAX_SEQ_LENGTH,
    Source,
    modules,
    random_source,
    tokenizer,
    vocabulary,
    foreign_vocabulary,
    write_json,
    write_model,
)

TEXTS = [
    "",
    "a",
    "How big is London",
    "how BIG is london?",
    "The quick brown fox jumps over the lazy dog.",
    "   spaces   and\ttabs\nand newlines ",
    "Ünïcödé — naïve café, 東京 и Москва 🙂",
    "9,787,426 people in 2011 (census)",
    "x" * 150,
    "supercalifragilisticexpialidocious",
    "What would happen to a request that arrives at that moment?",
    "word after word " * 60,
]

PROMPTS = {"query": "query: ", "passage": "passage: "}


# ---- Models with a changed graph


def renamed(model):
    """Renames the input input_ids to `ids`."""
    for node in model.graph.node:
        node.input[:] = ["ids" if name == "input_ids" else name for name in node.input]
    model.graph.input[0].name = "ids"
    return model


def with_int32_inputs(model):
    """Changes the inputs to int32, with casts to int64 inside."""
    casts = []
    for value in model.graph.input:
        inside = f"{value.name}.int64"
        for node in model.graph.node:
            node.input[:] = [inside if name == value.name else name for name in node.input]
        casts.append(helper.make_node("Cast", [value.name], [inside], name=inside, to=TensorProto.INT64))
        value.type.tensor_type.elem_type = TensorProto.INT32
    body = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(body)
    return model


def with_burden(model, burden):
    """Adds 0 · burden(a scalar) to the output. The scalar is derived from the input, so that nothing can
    be computed when the model is loaded."""
    last = model.graph.node.pop()  # the Identity that names the output
    graph = Graph()
    mask = graph.node("Cast", "burden.mask", ["attention_mask"], to=TensorProto.FLOAT)
    one = graph.node("ReduceMax", "burden.one", [mask], keepdims=0)
    zero = graph.constant("burden.zero", np.array(0, dtype=np.float32))
    nothing = graph.node("Mul", "burden.nothing", [burden(graph, one), zero])
    graph.node("Add", OUTPUT, [last.input[0], nothing])
    model.graph.node.extend(graph.nodes)
    model.graph.initializer.extend(graph.initializers)
    return model


def eight_gigabytes(graph, one):
    shape = graph.constant("burden.shape", np.array([2, 1024, 1024, 1024], dtype=np.int64))
    huge = graph.node("Expand", "burden.huge", [one, shape])
    return graph.node("ReduceSum", "burden.sum", [huge], keepdims=0)


def a_billion_rounds(graph, one):
    """Adds a loop that negates a number: almost no memory, minutes of work."""

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
    rounds = graph.constant("burden.rounds", np.array(1_000_000_000, dtype=np.int64))
    return graph.node("Loop", "burden.rest", [rounds, "", one], body=body)


# ---- Broken files


def must_not_load(directory):
    try:
        onnx.load(directory / "model.onnx")
    except Exception:
        return
    raise SystemExit(f"tiny_models: {directory} must be broken, but it loads")


def truncate(directory):
    content = (directory / "model.onnx").read_bytes()
    (directory / "model.onnx").write_bytes(content[: len(content) // 2])
    must_not_load(directory)


def corrupt(directory, model):
    """Overwrites part of the graph's nodes. In the weights, any bytes would be valid numbers."""
    content = bytearray((directory / "model.onnx").read_bytes())
    nodes = model.graph.node
    start = content.index(nodes[len(nodes) // 2].SerializeToString(deterministic=True))
    content[start : start + 64] = b"\xff" * 64
    (directory / "model.onnx").write_bytes(content)
    must_not_load(directory)


# ---- The models


def write_good(out, a, b, wide):
    write_model(out / "a", a)
    write_model(out / "b", b)
    write_model(out / "wide", wide)
    write_model(out / "cls", a, pool="cls")
    write_model(out / "plain", a, normalize=False)
    write_model(out / "last_token", a, pool="lasttoken")
    prompts = {"prompts": PROMPTS, "default_prompt_name": "passage"}
    write_json(write_model(out / "prompts", a) / "config_sentence_transformers.json", prompts)
    write_model(out / "int32", a, with_int32_inputs(a.model()))
    external = write_model(out / "external", a)
    (external / "model.onnx").unlink()
    onnx.save_model(
        a.model(),
        external / "model.onnx",
        save_as_external_data=True,
        location="model.onnx_data",
        size_threshold=1024,
    )


def write_bad(out, a):
    truncate(write_model(out / "truncated", a))
    corrupt(write_model(out / "corrupt", a), a.model())

    last = f"encoder.layer.{a.config['num_hidden_layers'] - 1}.output.LayerNorm.weight"
    not_numbers = np.full_like(a.weights[last], np.nan)
    write_model(out / "nan", Source({**a.weights, last: not_numbers}, a.config))

    write_model(out / "renamed", a, renamed(a.model()))
    (write_model(out / "no_tokenizer", a) / "tokenizer.json").unlink()
    foreign = write_model(out / "foreign_tokenizer", a)
    write_json(foreign / "tokenizer.json", tokenizer(foreign_vocabulary()))

    dense = write_model(out / "dense", a)
    kinds = ["Transformer", "Pooling", "Dense", "Normalize"]
    write_json(dense / "modules.json", modules(kinds))
    activation = "torch.nn.modules.activation.Tanh"
    shape = {"in_features": a.config["hidden_size"], "out_features": a.config["hidden_size"]}
    write_json(dense / "2_Dense/config.json", {**shape, "bias": True, "activation_function": activation})

    write_model(out / "expensive", a, with_burden(a.model(), eight_gigabytes))
    write_model(out / "slow", a, with_burden(a.model(), a_billion_rounds))


def reference(sources):
    """Returns the number of tokens of each text, and the embeddings of each model in the same order."""
    vocab = vocabulary()
    ids = [tokenize(text, vocab, MAX_SEQ_LENGTH) for text in TEXTS]
    models = {}
    for name, (source, pool, normalize) in sources.items():
        vectors = [embed(source.weights, source.config, one, pool, normalize) for one in ids]
        models[name] = [[round(float(x), 7) for x in vector] for vector in vectors]
    return {"texts": TEXTS, "tokens": [len(one) for one in ids], "models": models}


def prompted(source):
    """Returns the embeddings of the texts with each prompt prepended, by the prompt's name."""
    vocab = vocabulary()

    def vectors(prompt):
        for text in TEXTS:
            ids = tokenize(prompt + text, vocab, MAX_SEQ_LENGTH)
            yield [round(float(x), 7) for x in embed(source.weights, source.config, ids)]

    return {name: list(vectors(prompt)) for name, prompt in PROMPTS.items()}


def main():
    parser = argparse.ArgumentParser(description="Generates tiny random BERT models for the tests.")
    parser.add_argument("out", type=Path, help="directory to create; it must not contain models yet")
    out = parser.parse_args().out
    a, b, wide = random_source(1), random_source(2), random_source(3, hidden=48)
    write_good(out, a, b, wide)
    write_bad(out, a)
    tiny_long.write(out, a)
    expected = {
        "a": (a, "mean", True),
        "b": (b, "mean", True),
        "wide": (wide, "mean", True),
        "cls": (a, "cls", True),
        "plain": (a, "mean", False),
        "last_token": (a, "lasttoken", True),
    }
    answers = reference(expected) | {
        "prompts": prompted(a),
        **tiny_heads.write(out),
        "tensors": tensor_models.write(out),
    }
    content = json.dumps(answers, separators=(",", ":"))
    (out / "reference.json").write_text(content + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
