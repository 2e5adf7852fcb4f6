"""Helpers of the generators: random models, exports, and the format of `expected.json`."""

import json
import os
from pathlib import Path

import numpy
import onnx
import sentence_transformers.models as modules
import torch
import transformers
from onnx import helper
from optimum.exporters.onnx import main_export
from sentence_transformers import SentenceTransformer
from transformers import AutoConfig, AutoTokenizer

HERE = Path(__file__).resolve().parent
MODELS = Path(os.environ.get("MODELS", HERE.parents[1] / "tests/models"))
SCRATCH = Path(os.environ.get("SCRATCH", "/tmp")) / "more-models"
MAKERS = {}

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 66,
}


def maker(function):
    MAKERS["more-" + function.__name__.replace("_", "-")] = function
    return function


def texts():
    return json.loads((MODELS / "mpnet-embed/expected.json").read_text())["texts"]


def pairs():
    return json.loads((MODELS / "cross-encoder-new/expected.json").read_text())["pairs"]


def tokenizer(name):
    return AutoTokenizer.from_pretrained(MODELS / name)


def model(kind, tok, like, **more):
    """Returns a small random transformer of this class, with weights large enough to tell texts apart."""
    config = AutoConfig.for_model(
        like, **{**SMALL, "vocab_size": len(tok), "pad_token_id": tok.pad_token_id, **more}
    )
    result = getattr(transformers, kind)._from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for name, weight in result.named_parameters():
            if weight.dim() > 1:
                weight.normal_(0, 0.25)
            elif "bias" in name:
                weight.normal_(0, 0.1)
    return result


def save(model, tok, to, limit=64):
    tok.model_max_length = limit
    model.save_pretrained(to)
    tok.save_pretrained(to)
    return str(to)


def export(source, task, to="onnx", **more):
    main_export(str(source), Path(source) / to, task=task, do_validation=False, **more)
    folder = Path(source) / to
    for entry in folder.iterdir():
        if not entry.name.startswith("model"):
            entry.unlink()


def rows(values):
    return [[round(float(x), 8) for x in row] for row in numpy.asarray(values, dtype=numpy.float64)]


def embedding(st, **more):
    st.eval()
    alone = [st.encode([text])[0] for text in texts()]
    batch = st.encode(texts())
    lengths = numpy.linalg.norm(numpy.asarray(alone), axis=1)
    result = {
        "task": "embedding",
        "texts": texts(),
        "embeddings": rows(batch),
        "embeddings_alone": rows(alone),
        "normalized": bool(numpy.allclose(lengths, 1, atol=1e-4)),
        "dimensions": len(alone[0]),
    }
    return {**result, **more}


def finish(folder, expected, keep=()):
    """Removes files that are not served and writes expected.json."""
    for path in Path(folder).rglob("*"):
        if path.name in ("README.md", ".gitattributes") or (
            path.name == "model.safetensors"
            and path.parent == Path(folder)
            and "model.safetensors" not in keep
        ):
            path.unlink()
    (Path(folder) / "expected.json").write_text(json.dumps(expected, ensure_ascii=False) + "\n")


def sentence(folder, tok, base, *after, limit=64, task="feature-extraction", **more):
    """Writes a sentence-transformers directory with these modules after a transformer, and its graph."""
    source = save(base, tok, SCRATCH, limit)
    first = modules.Transformer(source)
    st = SentenceTransformer(modules=[first, *after], device="cpu", **more)
    st.save(str(folder))
    export(folder, task, library_name="transformers")
    return st


def pooling(mode, **more):
    return modules.Pooling(SMALL["hidden_size"], pooling_mode=mode, **more)


def bert(**more):
    tok = tokenizer("pooling-max")
    return tok, model("BertModel", tok, "bert", **more)


def dense(into, out, activation, **more):
    result = modules.Dense(into, out, activation_function=activation, **more)
    with torch.no_grad():
        result.linear.weight.normal_(0, 0.3)
    return result.requires_grad_(False)


class Traced(torch.nn.Module):
    def __init__(self, base, run):
        super().__init__()
        self.base, self.run = base, run

    def forward(self, *inputs):
        return self.run(self.base, *inputs)


def trace(folder, base, tok, run, outputs, more=()):
    """Exports with TorchScript. `run` computes the outputs from the model and the inputs."""
    sample = tok(["a text", "another, which is longer"], padding=True, return_tensors="pt")
    names = [name for name in ("input_ids", "attention_mask", "token_type_ids") if name in sample]
    inputs = [sample[name] for name in names] + [value for _, value in more]
    names += [name for name, _ in more]
    axes = {name: {0: "batch", 1: "sequence"} for name in names[: len(names) - len(more)]}
    axes.update(
        {
            name: {0: "batch", **({1: "sequence"} if rank == 3 else {})}
            for name, rank in outputs.items()
        }
    )
    (folder / "onnx").mkdir(exist_ok=True)
    with torch.no_grad():
        torch.onnx.export(
            Traced(base, run).eval(),
            tuple(inputs),
            str(folder / "onnx/model.onnx"),
            input_names=names,
            output_names=list(outputs),
            dynamic_axes=axes,
            opset_version=17,
            dynamo=False,
        )


def mean(hidden, mask):
    mask = mask.unsqueeze(-1).float()
    return (hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9)


def retype(path, target, names):
    """Changes the type of these outputs with a Cast."""
    graph = onnx.load(path)
    for output in graph.graph.output:
        if output.name in names:
            for node in graph.graph.node:
                for index, name in enumerate(node.output):
                    if name == output.name:
                        node.output[index] = name + "_float"
                for index, name in enumerate(node.input):
                    if name == output.name:
                        node.input[index] = name + "_float"
            graph.graph.node.append(
                helper.make_node("Cast", [output.name + "_float"], [output.name], to=target)
            )
            output.type.tensor_type.elem_type = target
    onnx.save(graph, path)


def sparse_rows(values):
    result = []
    for row in values.to_dense().numpy():
        indices = numpy.nonzero(row)[0]
        result.append(
            {"indices": indices.tolist(), "values": [float(row[index]) for index in indices]}
        )
    return result
