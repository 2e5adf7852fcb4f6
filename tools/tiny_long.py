"""Models for long texts: plain attention with many heads and 8192 positions, and one that counts
positions like RoBERTa.

Called by tiny_models.py. The attention is unfused, so its memory and time grow with the square of the
length, as in any model exported without fused attention.
"""

import numpy as np
from onnx import helper, numpy_helper

from tiny_parts import (
    Source,
    bert_config,
    modules,
    pooling,
    random_weights,
    tokenizer,
    vocabulary,
    write_json,
    write_onnx,
)

POSITIONS = 8192
# Positions of the RoBERTa-like model; two of them are reserved.
ROBERTA_POSITIONS = 66
ROBERTA_OFFSET = 2


def long_source(heads):
    """Returns one layer with heads of four components: cheap, but with as many attention scores as a large model."""
    config = {**bert_config(4 * heads), "num_attention_heads": heads, "max_position_embeddings": POSITIONS}
    return Source(random_weights(7, config), config)


def write_directory(directory, model, config, limits):
    directory.mkdir(parents=True)
    write_onnx(directory, model)
    write_json(directory / "config.json", config)
    write_json(directory / "tokenizer.json", tokenizer(vocabulary()))
    write_json(directory / "tokenizer_config.json", limits)
    write_json(directory / "modules.json", modules(["Transformer", "Pooling", "Normalize"]))
    write_json(directory / "1_Pooling/config.json", pooling("mean", config["hidden_size"]))


def write_roberta(directory, like):
    """Writes a model with the embeddings of `like`, with two reserved positions before the first, like RoBERTa."""
    name = "embeddings.position_embeddings.weight"
    table = like.weights[name]
    unused = np.full((ROBERTA_OFFSET, table.shape[1]), 9, dtype=np.float32)
    shifted = np.concatenate([unused, table[: ROBERTA_POSITIONS - ROBERTA_OFFSET]])
    config = {**like.config, "max_position_embeddings": ROBERTA_POSITIONS}
    model = Source({**like.weights, name: shifted}, config).model()
    offset = numpy_helper.from_array(np.array([ROBERTA_OFFSET], dtype=np.int64), "embeddings.offset")
    model.graph.initializer.append(offset)
    index = next(i for i, node in enumerate(model.graph.node) if node.name == "embeddings.positions")
    end = helper.make_node(
        "Add", ["embeddings.length", "embeddings.offset"], ["embeddings.end"], name="embeddings.end"
    )
    positions = model.graph.node[index]
    positions.input[1], positions.input[2] = "embeddings.offset", "embeddings.end"
    model.graph.node.insert(index, end)
    config = {**config, "model_type": "roberta", "architectures": ["RobertaModel"], "pad_token_id": 1}
    write_directory(directory, model, config, {})


def write(out, like):
    for heads in (12, 16):
        source = long_source(heads)
        limits = {"model_max_length": POSITIONS}
        write_directory(out / f"long_{heads}", source.model(), source.config, limits)
    write_roberta(out / "roberta", like)
