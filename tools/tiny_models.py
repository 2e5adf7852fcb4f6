#!/usr/bin/env python3
"""Makes tiny random BERT models for the tests: good ones, and one for each way a model can be bad.

    python tiny_models.py OUT_DIR

Each is a directory as the Hugging Face hub has it. OUT_DIR/reference.json holds the embeddings of
the good ones, computed by bert_reference.py. Everything is seeded: the same files each time.
"""

import argparse
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper

from bert_reference import embed, tokenize
from bert_to_onnx import OUTPUT, Graph, build_model

MAX_SEQ_LENGTH = 64
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = """
    the be to of and in that have it for not on with he as you do at this but his by from they we
    say her she or an will my one all would there their what so up out if about who get which go me
    when make can like time no just him know take people into year your good some could them see
    other than then now look only come its over think also back after use two how our work first
    well way even new want because any these give day most us is are was has london big world hello
    model server ing ed er ly
""".split()

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


# ---- The parts of a model directory


def vocabulary():
    """Token to id."""
    chars = [chr(code) for code in range(33, 127)]
    tokens = [*SPECIAL, *chars, *(f"##{c}" for c in chars), *WORDS, *(f"##{w}" for w in WORDS)]
    # dict.fromkeys and not set(): the ids have to be the same each time.
    return {token: index for index, token in enumerate(dict.fromkeys(tokens))}


def foreign_vocabulary():
    """The same tokens, but all ordinary ones with ids far behind the embedding table's end."""
    own = vocabulary()
    unused = [f"[unused{index}]" for index in range(9 * len(own))]
    ordinary = [token for token in own if token not in SPECIAL]
    return {token: index for index, token in enumerate([*SPECIAL, *unused, *ordinary])}


def tokenizer(vocab):
    """tokenizer.json of a BERT WordPiece tokenizer."""

    def special(name, type_id):
        return {"SpecialToken": {"id": name, "type_id": type_id}}

    def sequence(name, type_id):
        return {"Sequence": {"id": name, "type_id": type_id}}

    first = [special("[CLS]", 0), sequence("A", 0), special("[SEP]", 0)]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": vocab[token], "content": token, **flags, "special": True} for token in SPECIAL
        ],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": first,
            "pair": [*first, sequence("B", 1), special("[SEP]", 1)],
            "special_tokens": {
                token: {"id": token, "ids": [vocab[token]], "tokens": [token]}
                for token in ("[CLS]", "[SEP]")
            },
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": vocab,
        },
    }


def tokenizer_config():
    names = {f"{token.strip('[]').lower()}_token": token for token in SPECIAL}
    return {
        "do_lower_case": True,
        "model_max_length": 128,
        "tokenizer_class": "BertTokenizer",
        **names,
    }


def bert_config(hidden):
    return {
        "architectures": ["BertModel"],
        "hidden_act": "gelu",
        "hidden_size": hidden,
        "intermediate_size": 64,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": 128,
        "model_type": "bert",
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
        "pad_token_id": 0,
        "position_embedding_type": "absolute",
        "type_vocab_size": 2,
        "vocab_size": len(vocabulary()),
    }


def modules(kinds):
    """modules.json; the first module lies in the directory itself."""
    return [
        {
            "idx": index,
            "name": str(index),
            "path": f"{index}_{kind}" if index else "",
            "type": f"sentence_transformers.models.{kind}",
        }
        for index, kind in enumerate(kinds)
    ]


def pooling(kind, hidden):
    return {
        "word_embedding_dimension": hidden,
        "pooling_mode_cls_token": kind == "cls",
        "pooling_mode_mean_tokens": kind == "mean",
        "pooling_mode_max_tokens": False,
        "pooling_mode_mean_sqrt_len_tokens": False,
    }


def random_weights(seed, config):
    """A checkpoint of BertModel. RandomState gives the same stream in every version of numpy."""
    random = np.random.RandomState(seed)
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    weights = {}

    def tensor(name, shape, spread, centre=0.0):
        values = centre + spread * random.standard_normal(shape)
        weights[name] = values.astype(np.float32)

    def linear(name, rows, columns):
        tensor(f"{name}.weight", (columns, rows), rows**-0.5)
        tensor(f"{name}.bias", (columns,), 0.1)

    def layer_norm(name):
        tensor(f"{name}.weight", (hidden,), 0.1, centre=1.0)
        tensor(f"{name}.bias", (hidden,), 0.1)

    tensor("embeddings.word_embeddings.weight", (config["vocab_size"], hidden), 1.0)
    tensor("embeddings.position_embeddings.weight", (config["max_position_embeddings"], hidden), 0.5)
    tensor("embeddings.token_type_embeddings.weight", (config["type_vocab_size"], hidden), 0.5)
    layer_norm("embeddings.LayerNorm")
    for index in range(config["num_hidden_layers"]):
        layer = f"encoder.layer.{index}"
        for kind in ("query", "key", "value"):
            linear(f"{layer}.attention.self.{kind}", hidden, hidden)
        linear(f"{layer}.attention.output.dense", hidden, hidden)
        layer_norm(f"{layer}.attention.output.LayerNorm")
        linear(f"{layer}.intermediate.dense", hidden, inner)
        linear(f"{layer}.output.dense", inner, hidden)
        layer_norm(f"{layer}.output.LayerNorm")
    return weights


class Source(NamedTuple):
    """Weights and configuration, from which model directories are written."""

    weights: dict
    config: dict

    def model(self):
        return build_model(self.weights, self.config)


def random_source(seed, hidden=32):
    config = bert_config(hidden)
    return Source(random_weights(seed, config), config)


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def write_onnx(directory, model):
    (directory / "model.onnx").write_bytes(model.SerializeToString(deterministic=True))


def write_model(directory, source, model=None, pool="mean", normalize=True):
    """A whole model directory; `model` replaces the converted one."""
    hidden = source.config["hidden_size"]
    directory.mkdir(parents=True)
    write_onnx(directory, model or source.model())
    write_json(directory / "config.json", source.config)
    write_json(directory / "tokenizer.json", tokenizer(vocabulary()))
    write_json(directory / "tokenizer_config.json", tokenizer_config())
    kinds = ["Transformer", "Pooling", *(["Normalize"] if normalize else [])]
    write_json(directory / "modules.json", modules(kinds))
    write_json(directory / "1_Pooling/config.json", pooling(pool, hidden))
    write_json(
        directory / "sentence_bert_config.json",
        {"max_seq_length": MAX_SEQ_LENGTH, "do_lower_case": False},
    )
    return directory


# ---- Models with a changed graph


def renamed(model):
    """input_ids is called `ids`."""
    for node in model.graph.node:
        node.input[:] = ["ids" if name == "input_ids" else name for name in node.input]
    model.graph.input[0].name = "ids"
    return model


def with_int32_inputs(model):
    """int32 outside, int64 inside."""
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
    """Adds 0 · burden(a scalar made of the input) to the output, so that nothing of it can be
    computed when the model is loaded."""
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
    """A loop that negates a number: nearly no memory, minutes of work."""

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
    raise SystemExit(f"tiny_models: {directory} was to be broken, but it loads")


def truncate(directory):
    content = (directory / "model.onnx").read_bytes()
    (directory / "model.onnx").write_bytes(content[: len(content) // 2])
    must_not_load(directory)


def corrupt(directory, model):
    """Overwrites part of the graph's nodes. In the weights, wrong bytes would be valid numbers."""
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
    """For each text its number of tokens, and for each model its embeddings in the same order."""
    vocab = vocabulary()
    ids = [tokenize(text, vocab, MAX_SEQ_LENGTH) for text in TEXTS]
    models = {}
    for name, (source, pool, normalize) in sources.items():
        vectors = [embed(source.weights, source.config, one, pool, normalize) for one in ids]
        models[name] = [[round(float(x), 7) for x in vector] for vector in vectors]
    return {"texts": TEXTS, "tokens": [len(one) for one in ids], "models": models}


def main():
    parser = argparse.ArgumentParser(description="Makes tiny random BERT models for the tests.")
    parser.add_argument("out", type=Path, help="directory to make; it must not hold models yet")
    out = parser.parse_args().out
    a, b, wide = random_source(1), random_source(2), random_source(3, hidden=48)
    write_good(out, a, b, wide)
    write_bad(out, a)
    expected = {
        "a": (a, "mean", True),
        "b": (b, "mean", True),
        "wide": (wide, "mean", True),
        "cls": (a, "cls", True),
        "plain": (a, "mean", False),
    }
    content = json.dumps(reference(expected), separators=(",", ":"))
    (out / "reference.json").write_text(content + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
