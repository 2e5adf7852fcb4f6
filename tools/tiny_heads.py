"""Tiny rerankers and classifiers: BertForSequenceClassification with random weights.

Called by tiny_models.py. bert_reference.py computes their expected logits.
"""

from bert_reference import classify, tokenize, tokenize_pair
from bert_to_onnx import labelled, random_head
from tiny_parts import MAX_SEQ_LENGTH, Source, bert_config, random_weights, vocabulary, write_encoder

LABELS = ["negative", "neutral", "positive"]

QUERIES = ["How big is London", "", "What would happen to a request?", "naïve café, 東京"]
PASSAGES = [
    "London is a big city of the world.",
    "9,787,426 people in 2011 (census)",
    "hello world",
    "",
    "How big is London",
]
LONG = "word after word " * 20
# Query too long, text too long, both too long, and both equally too long.
TRUNCATED = [
    (LONG, "hello world"),
    ("How big is London", LONG),
    (LONG, LONG + "over and over"),
    (LONG + "over and over", LONG),
    (LONG, LONG),
    ("hello server " * 16, "model people " * 17),
]
TEXTS = [
    "",
    "I like it, it is good.",
    "How BIG is london?",
    "Ünïcödé — naïve café, 東京 и Москва 🙂",
    "no no no, not that one",
    LONG,
]
PAIRS = [("hello world", "I like it"), ("", "no"), ("because it is good", "")]


def head_source(seed, labels, **more):
    """Returns an encoder with a head that has these labels."""
    config = labelled({**bert_config(32), **more}, labels)
    weights = random_weights(seed, config)
    # Amplify the token type embeddings, so that mixed-up types change the scores.
    weights["embeddings.token_type_embeddings.weight"] *= 4
    return Source({**weights, **random_head(config, seed + 1)}, config)


def logits(source, ids, types=None):
    return [round(float(x), 7) for x in classify(source.weights, source.config, ids, types)]


def rerank_answers(source, truncated):
    """Returns the logit of each pair, either for the truncated pairs or for those that fit."""
    vocab = vocabulary()
    pairs = TRUNCATED if truncated else [(query, text) for query in QUERIES for text in PASSAGES]
    answers = []
    for query, text in pairs:
        ids, types, cut = tokenize_pair(query, text, vocab, MAX_SEQ_LENGTH)
        if cut != truncated:
            raise SystemExit(f"tiny_heads: {query!r}, {text!r}: expected a pair with cut={truncated}")
        answers.append({"query": query, "text": text, "logit": logits(source, ids, types)[0]})
    return answers


def classify_answers(source):
    """Returns the logits of each text and each pair (`text` and `second`)."""
    vocab = vocabulary()
    answers = []
    for text in TEXTS:
        answers.append({"text": text, "logits": logits(source, tokenize(text, vocab, MAX_SEQ_LENGTH))})
    for text, second in PAIRS:
        ids, types, _ = tokenize_pair(text, second, vocab, MAX_SEQ_LENGTH)
        answers.append({"text": text, "second": second, "logits": logits(source, ids, types)})
    return answers


def write(out):
    """Writes the models. Returns their entries for reference.json."""
    rerankers = {"rerank_a": head_source(11, ["LABEL_0"]), "rerank_b": head_source(21, ["LABEL_0"])}
    classifiers = {
        "classify_a": head_source(57, LABELS),
        "classify_b": head_source(67, LABELS),
        "classify_multi": head_source(51, LABELS, problem_type="multi_label_classification"),
    }
    for name, source in {**rerankers, **classifiers}.items():
        write_encoder(out / name, source, source.model())
    return {
        "rerank": {name: rerank_answers(source, False) for name, source in rerankers.items()},
        "truncated": {name: rerank_answers(source, True) for name, source in rerankers.items()},
        "classify": {name: classify_answers(source) for name, source in classifiers.items()},
    }
