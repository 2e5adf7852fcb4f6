"""Embedders: poolings, modules after them, and graphs with unusual outputs."""

import json
import shutil
from pathlib import Path

import numpy
import onnx
import sentence_transformers.models as modules
import torch
from onnx import TensorProto, helper, numpy_helper

from shared import (
    bert,
    dense,
    embedding,
    finish,
    maker,
    mean,
    model,
    pooling,
    retype,
    save,
    sentence,
    tokenizer,
    trace,
)


@maker
def pooling_mean_max(folder):
    tok, base = bert()
    finish(folder, embedding(sentence(folder, tok, base, pooling(("mean", "max")))))


@maker
def pooling_weighted_last(folder):
    tok, base = bert()
    finish(
        folder,
        embedding(
            sentence(folder, tok, base, pooling(("weightedmean", "lasttoken")), modules.Normalize())
        ),
    )


@maker
def dropout_layernorm(folder):
    tok, base = bert()
    norm = modules.LayerNorm(32)
    with torch.no_grad():
        norm.norm.weight.normal_(1, 0.2)
        norm.norm.bias.normal_(0, 0.2)
    finish(
        folder, embedding(sentence(folder, tok, base, pooling("mean"), modules.Dropout(0.2), norm))
    )


@maker
def dense_roberta(folder):
    tok = tokenizer("roberta-bpe-embed")
    base = model("RobertaModel", tok, "roberta")
    after = [pooling("mean"), dense(32, 48, torch.nn.GELU()), dense(48, 24, torch.nn.ReLU())]
    finish(folder, embedding(sentence(folder, tok, base, *after)))


@maker
def dense_before_pooling(folder):
    tok, base = bert()
    first = modules.Dense(
        32,
        24,
        activation_function=torch.nn.Identity(),
        module_input_name="token_embeddings",
        module_output_name="token_embeddings",
    )
    after = [first, modules.Pooling(24, pooling_mode="mean"), modules.Normalize()]
    finish(folder, embedding(sentence(folder, tok, base, *after)))


@maker
def xlmr_no_limit(folder):
    tok = tokenizer("xlm-roberta-embed")
    base = model("XLMRobertaModel", tok, "xlm-roberta")
    st = sentence(folder, tok, base, pooling("cls"), modules.Normalize())
    for name in ("tokenizer_config.json",):
        path = Path(folder) / name
        config = json.loads(path.read_text())
        config["model_max_length"] = 10**30
        path.write_text(json.dumps(config))
    finish(folder, embedding(st))


@maker
def folder_0_transformer(folder):
    """The layout of old sentence-transformers, with the transformer in a folder."""
    tok, base = bert()
    st = sentence(folder, tok, base, pooling("mean"))
    inner = Path(folder) / "0_Transformer"
    inner.mkdir()
    for path in list(Path(folder).iterdir()):
        if path.name not in (
            "modules.json",
            "config_sentence_transformers.json",
            "1_Pooling",
            "0_Transformer",
        ):
            path.rename(inner / path.name)
    (inner / "model.safetensors").unlink()
    path = Path(folder) / "modules.json"
    listed = json.loads(path.read_text())
    listed[0]["path"] = "0_Transformer"
    path.write_text(json.dumps(listed, indent=2))
    finish(folder, embedding(st))


@maker
def decoder_without_positions(folder):
    """A decoder whose graph has no input position_ids."""
    tok = tokenizer("qwen3-embedding")
    tok.chat_template = None
    base = model(
        "Qwen2Model",
        tok,
        "qwen2",
        num_key_value_heads=2,
        max_position_embeddings=128,
        bos_token_id=None,
        eos_token_id=tok.pad_token_id,
    )
    st = sentence(folder, tok, base, pooling("lasttoken"), modules.Normalize(), limit=128)
    path = Path(folder) / "onnx/model.onnx"
    graph = onnx.load(path)
    names = [one.name for one in graph.graph.input]
    if "position_ids" in names:
        # Compute cumsum(mask) - 1 inside the graph, like exporters that omit the input.
        graph.graph.input.remove(
            next(one for one in graph.graph.input if one.name == "position_ids")
        )
        axis = numpy_helper.from_array(numpy.array(1, dtype=numpy.int64), "axis_1")
        one = numpy_helper.from_array(numpy.array(1, dtype=numpy.int64), "one")
        zero = numpy_helper.from_array(numpy.array(0, dtype=numpy.int64), "zero_0")
        graph.graph.initializer.extend([axis, one, zero])
        nodes = [
            helper.make_node("CumSum", ["attention_mask", "axis_1"], ["cum"]),
            helper.make_node("Sub", ["cum", "one"], ["less"]),
            helper.make_node("Max", ["less", "zero_0"], ["position_ids"]),
        ]
        for node in reversed(nodes):
            graph.graph.node.insert(0, node)
    onnx.save(graph, path)
    finish(folder, embedding(st))


@maker
def two_outputs(folder):
    """A BertModel without modules.json, as optimum exports it: hidden states and pooler output."""
    tok, base = bert()
    st = sentence(folder, tok, base, pooling("mean"))
    path = Path(folder) / "onnx/model.onnx"
    with_pooler(Path(folder), base, tok)
    for name in (
        "modules.json",
        "1_Pooling",
        "config_sentence_transformers.json",
        "sentence_bert_config.json",
    ):
        target = Path(folder) / name
        shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
    assert path.exists()
    finish(folder, embedding(st, pooling="mean"))


def with_pooler(folder, base, tok):
    def run(base, ids, mask, types):
        result = base(input_ids=ids, attention_mask=mask, token_type_ids=types)
        return result.last_hidden_state, result.pooler_output

    trace(folder, base, tok, run, {"last_hidden_state": 3, "pooler_output": 2})


def without_modules(folder):
    for name in (
        "modules.json",
        "1_Pooling",
        "2_Normalize",
        "config_sentence_transformers.json",
        "sentence_bert_config.json",
    ):
        target = Path(folder) / name
        (
            shutil.rmtree(target, ignore_errors=True)
            if target.is_dir()
            else target.unlink(missing_ok=True)
        )


@maker
def sentence_embedding_only(folder):
    """A graph that pools and normalizes, with no other output and no modules.json."""
    tok, base = bert()
    st = sentence(folder, tok, base, pooling("mean"), modules.Normalize())

    def run(base, ids, mask, types):
        hidden = base(input_ids=ids, attention_mask=mask, token_type_ids=types).last_hidden_state
        return torch.nn.functional.normalize(mean(hidden, mask), dim=-1)

    trace(Path(folder), base, tok, run, {"sentence_embedding": 2})
    without_modules(folder)
    finish(folder, embedding(st))


@maker
def text_embeds_only(folder):
    """Like CLIP's text models: text_embeds with two dimensions, and last_hidden_state."""
    tok, base = bert()
    head = dense(32, 16, torch.nn.Identity(), bias=False)
    st = sentence(folder, tok, base, pooling("cls"), head)

    def run(base, ids, mask, types):
        hidden = base(input_ids=ids, attention_mask=mask, token_type_ids=types).last_hidden_state
        return head.linear(hidden[:, 0]), hidden

    trace(Path(folder), base, tok, run, {"text_embeds": 2, "last_hidden_state": 3})
    without_modules(folder)
    shutil.rmtree(Path(folder) / "2_Dense", ignore_errors=True)
    finish(folder, embedding(st))


@maker
def pooled_and_modules(folder):
    """A graph with token_embeddings and sentence_embedding, and modules.json with pooling."""
    tok, base = bert()
    st = sentence(folder, tok, base, pooling("mean"), modules.Normalize())

    def run(base, ids, mask, types):
        hidden = base(input_ids=ids, attention_mask=mask, token_type_ids=types).last_hidden_state
        return hidden, torch.nn.functional.normalize(mean(hidden, mask), dim=-1)

    trace(Path(folder), base, tok, run, {"token_embeddings": 3, "sentence_embedding": 2})
    finish(folder, embedding(st))


@maker
def dense_in_graph(folder):
    """modules.json lists a Dense that the graph already applies."""
    tok, base = bert()
    head = dense(32, 24, torch.nn.Tanh())
    st = sentence(folder, tok, base, pooling("mean"), head, modules.Normalize())

    def run(base, ids, mask, types):
        hidden = base(input_ids=ids, attention_mask=mask, token_type_ids=types).last_hidden_state
        pooled = torch.tanh(head.linear(mean(hidden, mask)))
        return hidden, torch.nn.functional.normalize(pooled, dim=-1)

    trace(Path(folder), base, tok, run, {"token_embeddings": 3, "sentence_embedding": 2})
    finish(folder, embedding(st))


@maker
def square_dense_in_graph(folder):
    """The graph's only output is final, but the Dense in modules.json would fit again."""
    tok, base = bert()
    head = dense(32, 32, torch.nn.Tanh())
    st = sentence(folder, tok, base, pooling("mean"), head)

    def run(base, ids, mask, types):
        hidden = base(input_ids=ids, attention_mask=mask, token_type_ids=types).last_hidden_state
        return torch.tanh(head.linear(mean(hidden, mask)))

    trace(Path(folder), base, tok, run, {"sentence_embedding": 2})
    finish(folder, embedding(st))


@maker
def use_cache_branch(folder):
    """A merged decoder: use_cache_branch must be false without past values."""
    tok = tokenizer("pooling-max")
    base = model("BertModel", tok, "bert")
    st = sentence(folder, tok, base, pooling("mean"))

    def run(base, ids, mask, types, branch):
        hidden = base(input_ids=ids, attention_mask=mask, token_type_ids=types).last_hidden_state
        return hidden + 3 * branch.float()

    trace(
        Path(folder),
        base,
        tok,
        run,
        {"last_hidden_state": 3},
        [("use_cache_branch", torch.tensor([False]))],
    )
    finish(folder, embedding(st))


@maker
def bfloat16_output(folder):
    tok, base = bert()
    st = sentence(folder, tok, base, pooling("mean"), modules.Normalize())
    retype(Path(folder) / "onnx/model.onnx", TensorProto.BFLOAT16, ["last_hidden_state"])
    finish(folder, embedding(st, tolerance=0.02))
