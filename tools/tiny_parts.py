"""Parts of a tiny model's directory: vocabulary, tokenizer, configuration, random weights.

Used by tiny_models.py and tiny_heads.py. Everything is seeded.
"""

import json
from typing import NamedTuple

import numpy as np

from bert_to_onnx import build_model

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


def vocabulary():
    """Returns the id of each token."""
    chars = [chr(code) for code in range(33, 127)]
    tokens = [*SPECIAL, *chars, *(f"##{c}" for c in chars), *WORDS, *(f"##{w}" for w in WORDS)]
    # dict.fromkeys, unlike set(), keeps the ids the same in every run.
    return {token: index for index, token in enumerate(dict.fromkeys(tokens))}


def foreign_vocabulary():
    """Returns the same tokens, but the ordinary ones have ids far beyond the end of the embedding table."""
    own = vocabulary()
    unused = [f"[unused{index}]" for index in range(9 * len(own))]
    ordinary = [token for token in own if token not in SPECIAL]
    return {token: index for index, token in enumerate([*SPECIAL, *unused, *ordinary])}


def tokenizer(vocab):
    """Returns the tokenizer.json of a BERT WordPiece tokenizer."""

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
    """Returns modules.json. The first module is in the directory itself."""
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
    last = {"pooling_mode_lasttoken": True} if kind == "lasttoken" else {}
    return {
        "word_embedding_dimension": hidden,
        "pooling_mode_cls_token": kind == "cls",
        "pooling_mode_mean_tokens": kind == "mean",
        "pooling_mode_max_tokens": False,
        "pooling_mode_mean_sqrt_len_tokens": False,
        **last,
    }


def random_weights(seed, config):
    """Returns a checkpoint of BertModel. RandomState produces the same stream in every version of numpy."""
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


def write_encoder(directory, source, model):
    """Writes the files that embedders and classifiers have in common."""
    directory.mkdir(parents=True)
    write_onnx(directory, model)
    write_json(directory / "config.json", source.config)
    write_json(directory / "tokenizer.json", tokenizer(vocabulary()))
    write_json(directory / "tokenizer_config.json", tokenizer_config())
    write_json(
        directory / "sentence_bert_config.json",
        {"max_seq_length": MAX_SEQ_LENGTH, "do_lower_case": False},
    )


def write_model(directory, source, model=None, pool="mean", normalize=True):
    """Writes a complete model directory. `model` replaces the converted model."""
    hidden = source.config["hidden_size"]
    write_encoder(directory, source, model or source.model())
    kinds = ["Transformer", "Pooling", *(["Normalize"] if normalize else [])]
    write_json(directory / "modules.json", modules(kinds))
    write_json(directory / "1_Pooling/config.json", pooling(pool, hidden))
    return directory
