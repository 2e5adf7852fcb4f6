"""Reference answers that do not depend on onnxd: sentence-transformers' embeddings of MiniLM, numpy's answers of
the tiny models, and ONNX Runtime with the tokenizers library for everything else."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

from server import FIELD, MODELS

# Tolerance of ONNX Runtime in float32 against float64 or another float32 implementation.
TOLERANCE = 1e-5
GOLDEN_TOLERANCE = 5e-5


@cache
def golden():
    """Returns texts and MiniLM's embeddings of them."""
    path = Path(__file__).resolve().parents[1] / "golden/minilm.json"
    items = json.loads(path.read_text(encoding="utf-8"))["items"]
    return [item["text"] for item in items], np.array([item["embedding"] for item in items])


@cache
def tiny():
    """Returns reference.json of the tiny models; tools/tiny_models.py documents its contents."""
    return json.loads((MODELS / "tiny/reference.json").read_text(encoding="utf-8"))


@cache
def field(model):
    """Returns the results of the model's own library; tests/models/README.md documents their form."""
    return json.loads((FIELD / model / "expected.json").read_text(encoding="utf-8"))


def rerank_case(name="rerank_a"):
    """Returns a query, texts and the reranker's scores for them."""
    items = tiny()["rerank"][name]
    query = items[0]["query"]
    chosen = [item for item in items if item["query"] == query]
    texts = [item["text"] for item in chosen]
    return query, texts, sigmoid([item["logit"] for item in chosen])


@cache
def tokenizer(model):
    """Returns the model's tokenizer without the truncation and padding that its file may enable."""
    found = Tokenizer.from_file(str(MODELS / model / "tokenizer.json"))
    found.no_truncation()
    found.no_padding()
    return found


def token_ids(model, text):
    return tokenizer(model).encode(text).ids


@cache
def _session(model):
    return onnxruntime.InferenceSession(
        str(MODELS / model / "model.onnx"), providers=["CPUExecutionProvider"]
    )


def run(model, **inputs):
    """Returns the outputs by name, computed with ONNX Runtime."""
    session = _session(model)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs)))


def run_text(model, *texts):
    """Returns the first output for one text or pair, without its batch axis."""
    encoding = tokenizer(model).encode(*texts)
    columns = {
        "input_ids": encoding.ids,
        "attention_mask": encoding.attention_mask,
        "token_type_ids": encoding.type_ids,
    }
    inputs = {name: np.array([column], dtype=np.int64) for name, column in columns.items()}
    return next(iter(run(model, **inputs).values()))[0]


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, dtype=np.float64)))


def softmax(x):
    e = np.exp(np.asarray(x, dtype=np.float64) - np.max(x))
    return e / e.sum()


def close(actual, expected, tolerance=TOLERANCE):
    """Asserts that both have the same shape and nowhere differ by more than the tolerance."""
    actual, expected = np.asarray(actual, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    assert actual.shape == expected.shape, f"shape {actual.shape}, expected {expected.shape}"
    apart = float(np.abs(actual - expected).max()) if actual.size else 0.0
    assert apart <= tolerance, f"difference {apart}, allowed {tolerance}"


def close_golden(actual, expected):
    close(actual, expected, GOLDEN_TOLERANCE)
