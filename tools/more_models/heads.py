"""Classifiers, rerankers and token classifiers."""

import json
from pathlib import Path

import numpy
import sentence_transformers.models as modules
import torch
import transformers
from onnx import TensorProto
from sentence_transformers import CrossEncoder
from transformers import AutoTokenizer

from shared import (
    MODELS,
    SCRATCH,
    bert,
    export,
    finish,
    maker,
    model,
    pairs,
    pooling,
    retype,
    rows,
    save,
    texts,
    tokenizer,
)


def classifier(folder, kind, like, tok, labels, function, logits_type=None, limit=64, **more):
    tok = tokenizer(tok)
    config = {
        "id2label": dict(enumerate(labels)),
        "label2id": {label: index for index, label in enumerate(labels)},
    }
    base = model(kind, tok, like, **config, **more)
    save(base, tok, folder, limit)
    export(folder, "text-classification", library_name="transformers")
    logits = []
    with torch.no_grad():
        for text in texts():
            logits.append(
                base(**tok([text], truncation=True, return_tensors="pt")).logits[0].numpy()
            )
    scores = [function(torch.tensor(row)).numpy() for row in logits]
    if logits_type:
        retype(Path(folder) / "onnx/model.onnx", logits_type, ["logits"])
    return {
        "task": "classification",
        "texts": texts(),
        "logits": rows(logits),
        "scores": rows(scores),
        "labels": labels,
    }


@maker
def classifier_softmax(folder):
    softmax = lambda row: torch.softmax(row, -1)
    finish(
        folder,
        classifier(
            folder,
            "DistilBertForSequenceClassification",
            "distilbert",
            "distilbert-embed",
            ["sad", "neutral", "glad", "angry"],
            softmax,
            dim=32,
            hidden_dim=48,
            n_heads=4,
            n_layers=2,
        ),
    )


@maker
def classifier_float16(folder):
    softmax = lambda row: torch.softmax(row, -1)
    expected = classifier(
        folder,
        "BertForSequenceClassification",
        "bert",
        "pooling-max",
        ["NEGATIVE", "POSITIVE"],
        softmax,
        TensorProto.FLOAT16,
    )
    finish(folder, {**expected, "tolerance": 0.005})


@maker
def classifier_regression_two(folder):
    expected = classifier(
        folder,
        "BertForSequenceClassification",
        "bert",
        "pooling-max",
        ["valence", "arousal"],
        lambda row: row,
        problem_type="regression",
    )
    finish(folder, expected)


def cross_encoder(folder, kind, like, tok, max_length=64, **more):
    tok = tokenizer(tok)
    base = model(kind, tok, like, num_labels=1, **more)
    source = save(base, tok, SCRATCH, max_length)
    ce = CrossEncoder(source, device="cpu", max_length=max_length)
    ce.save_pretrained(str(folder))
    export(folder, "text-classification", library_name="transformers")
    logits = [float(ce.predict([pair], activation_fn=torch.nn.Identity())[0]) for pair in pairs()]
    scores = [float(ce.predict([pair])[0]) for pair in pairs()]
    finish(
        folder,
        {"task": "rerank", "pairs": pairs(), "logits": logits, "scores": scores, "num_labels": 1},
    )


@maker
def reranker_mpnet(folder):
    cross_encoder(folder, "MPNetForSequenceClassification", "mpnet", "mpnet-embed")


@maker
def reranker_distilbert(folder):
    cross_encoder(
        folder,
        "DistilBertForSequenceClassification",
        "distilbert",
        "distilbert-embed",
        dim=32,
        hidden_dim=48,
        n_heads=4,
        n_layers=2,
    )


@maker
def reranker_electra(folder):
    cross_encoder(
        folder, "ElectraForSequenceClassification", "electra", "pooling-max", embedding_size=32
    )


@maker
def reranker_deberta(folder):
    cross_encoder(
        folder,
        "DebertaV2ForSequenceClassification",
        "deberta-v2",
        "pooling-max",
        relative_attention=True,
        position_buckets=16,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        pos_att_type=["p2c", "c2p"],
        type_vocab_size=0,
        position_biased_input=False,
    )


@maker
def reranker_qwen2(folder):
    """Like mxbai-rerank-v2: a decoder that answers "1" or "0"."""
    from sentence_transformers.cross_encoder.modules import LogitScore

    tok = tokenizer("qwen3-reranker")
    base = model(
        "Qwen2ForCausalLM",
        tok,
        "qwen2",
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=None,
        tie_word_embeddings=True,
    )
    tok.chat_template = (
        "<|im_start|>system\nYou are a judge.<|im_end|>\n<|im_start|>user\nquery: {{ messages | selectattr('role', 'equalto', 'query') | map(attribute='content') | first }} \n"
        "document: {{ messages | selectattr('role', 'equalto', 'document') | map(attribute='content') | first }} \nAnswer with 1 or 0:<|im_end|>\n<|im_start|>assistant\n"
    )
    source = save(base, tok, SCRATCH, 384)
    first = modules.Transformer(source, transformer_task="text-generation")
    yes, no = tok.convert_tokens_to_ids("1"), tok.convert_tokens_to_ids("0")
    ce = CrossEncoder(
        modules=[first, LogitScore(true_token_id=yes, false_token_id=no)], device="cpu"
    )
    ce.save_pretrained(str(folder))
    export(folder, "text-generation", library_name="transformers")
    logits = [float(ce.predict([pair], activation_fn=torch.nn.Identity())[0]) for pair in pairs()]
    finish(
        folder,
        {
            "task": "rerank",
            "pairs": pairs(),
            "logits": logits,
            "scores": [1 / (1 + numpy.exp(-x)) for x in logits],
            "num_labels": 1,
        },
    )


@maker
def nli_two_labels(folder):
    """A zero-shot classifier with two labels, like MoritzLaurer's zeroshot-v2.0."""
    tok = tokenizer("pooling-max")
    labels = {
        "id2label": {0: "entailment", 1: "not_entailment"},
        "label2id": {"entailment": 0, "not_entailment": 1},
    }
    base = model("BertForSequenceClassification", tok, "bert", **labels)
    save(base, tok, folder)
    export(folder, "text-classification", library_name="transformers")
    pipe = transformers.pipeline(
        "zero-shot-classification", model=base, tokenizer=tok, device="cpu"
    )
    candidates, some = ["animals", "computer programming", "law", "food"], [
        text for text in texts() if text.strip()
    ]

    def scores(multi_label):
        answers = [pipe(text, candidates, multi_label=multi_label) for text in some]
        return [
            [dict(zip(one["labels"], one["scores"]))[label] for label in candidates]
            for one in answers
        ]

    nli = [pair for pair in pairs() if pair[0] and pair[1]][:6]
    with torch.no_grad():
        logits = [
            base(**tok([a], [b], truncation=True, return_tensors="pt")).logits[0].numpy()
            for a, b in nli
        ]
    expected = {
        "task": "zero-shot",
        "texts": some,
        "candidate_labels": candidates,
        "scores": scores(False),
        "scores_multi_label": scores(True),
        "nli_pairs": nli,
        "nli_logits": rows(logits),
        "labels": list(labels["label2id"]),
    }
    finish(folder, expected)


@maker
def ner_roberta(folder):
    tok = AutoTokenizer.from_pretrained(MODELS / "roberta-bpe-embed", add_prefix_space=True)
    labels = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
    base = model(
        "RobertaForTokenClassification",
        tok,
        "roberta",
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
    )
    save(base, tok, folder)
    export(folder, "token-classification", library_name="transformers")
    tok = AutoTokenizer.from_pretrained(folder)
    some = [text for text in texts() if text.strip() and len(tok(text)["input_ids"]) <= 64]
    pipeline = {}
    for strategy in ("none", "simple", "first", "average", "max"):
        pipe = transformers.pipeline(
            "token-classification",
            model=base,
            tokenizer=tok,
            device="cpu",
            aggregation_strategy=strategy,
            ignore_labels=[] if strategy == "none" else ["O"],
        )
        answers = [pipe(text) for text in some]
        pipeline[strategy] = [
            [{**one, "score": float(one["score"])} for one in answer] for answer in answers
        ]
    plain = lambda value: int(value) if isinstance(value, numpy.integer) else str(value)
    finish(
        folder,
        json.loads(
            json.dumps(
                {
                    "task": "token-classification",
                    "texts": some,
                    "pipeline_texts": some,
                    "pipeline": pipeline,
                    "labels": labels,
                },
                default=plain,
            )
        ),
    )
