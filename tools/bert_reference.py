"""BERT in plain numpy: the reference that tests compare served results with.

It deliberately shares no code with bert_to_onnx.py, so a mistake there does not repeat here.
"""

import math
import unicodedata

import numpy as np

LONGEST_WORD = 100


def is_punctuation(char):
    ascii_symbol = 33 <= ord(char) <= 126 and not char.isalnum()
    return ascii_symbol or unicodedata.category(char).startswith("P")


def is_chinese(char):
    ranges = ((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0xF900, 0xFAFF))
    return any(low <= ord(char) <= high for low, high in ranges)


def words(text):
    """Splits text like BertNormalizer (lowercase) and BertPreTokenizer."""
    spaced = []
    for char in text:
        if char in "\t\n\r" or char.isspace():
            spaced.append(" ")
        elif unicodedata.category(char).startswith("C"):
            continue
        elif is_chinese(char):
            spaced.append(f" {char} ")
        else:
            spaced.append(char)
    decomposed = unicodedata.normalize("NFD", "".join(spaced))
    plain = "".join(c for c in decomposed if unicodedata.category(c) != "Mn").lower()
    return "".join(f" {c} " if is_punctuation(c) else c for c in plain).split()


def pieces(word, vocabulary):
    """Splits a word by greedy longest match. A word that does not match completely is unknown."""
    found, start = [], 0
    while start < len(word):
        for end in range(len(word), start, -1):
            piece = ("##" if start else "") + word[start:end]
            if piece in vocabulary:
                break
        else:
            return ["[UNK]"]
        found.append(piece)
        start = end
    return found if len(word) <= LONGEST_WORD else ["[UNK]"]


def tokenize(text, vocabulary, limit):
    """Returns token ids with [CLS] and [SEP], truncated to the limit like a tokenizer."""
    body = text_pieces(text, vocabulary)
    return [vocabulary[piece] for piece in ["[CLS]", *body[: limit - 2], "[SEP]"]]


def text_pieces(text, vocabulary):
    return [piece for word in words(text) for piece in pieces(word, vocabulary)]


def tokenize_pair(first, second, vocabulary, limit):
    """Returns token ids and type ids of a pair, and whether it was truncated. The longer text is cut until
    the pair fits or both are equally long; from then on each gets half of the room."""
    a, b = text_pieces(first, vocabulary), text_pieces(second, vocabulary)
    room = limit - 3
    fits = len(a) + len(b) <= room
    if not fits:
        shorter = min(len(a), len(b))
        if shorter > room // 2:
            # The odd token goes to the longer text, or to the second if they are equally long.
            shorter = room // 2
        longer = room - shorter
        sizes = (longer, shorter) if len(a) > len(b) else (shorter, longer)
        a, b = a[: sizes[0]], b[: sizes[1]]
    ids = [vocabulary[piece] for piece in ["[CLS]", *a, "[SEP]", *b, "[SEP]"]]
    types = [0] * (len(a) + 2) + [1] * (len(b) + 1)
    return ids, types, not fits


def forward(weights, config, ids, types=None):
    """Returns the last hidden state of one text or pair: [tokens, hidden], float64."""
    tensors = {name: array.astype(np.float64) for name, array in weights.items()}

    def linear(name, x):
        return x @ tensors[f"{name}.weight"].T + tensors[f"{name}.bias"]

    def layer_norm(name, x):
        centred = x - x.mean(-1, keepdims=True)
        spread = np.sqrt((centred**2).mean(-1, keepdims=True) + config["layer_norm_eps"])
        return centred / spread * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]

    def heads(x):
        count = config["num_attention_heads"]
        return x.reshape(len(x), count, -1).transpose(1, 0, 2)

    def gelu(x):
        return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))

    x = tensors["embeddings.word_embeddings.weight"][ids]
    x = x + tensors["embeddings.position_embeddings.weight"][: len(ids)]
    types = [0] * len(ids) if types is None else types
    x = layer_norm("embeddings.LayerNorm", x + tensors["embeddings.token_type_embeddings.weight"][types])
    for index in range(config["num_hidden_layers"]):
        name = f"encoder.layer.{index}"
        query, key, value = (
            heads(linear(f"{name}.attention.self.{kind}", x)) for kind in ("query", "key", "value")
        )
        scores = query @ key.transpose(0, 2, 1) / math.sqrt(query.shape[-1])
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        context = shares / shares.sum(-1, keepdims=True) @ value
        context = context.transpose(1, 0, 2).reshape(x.shape)
        attended = linear(f"{name}.attention.output.dense", context) + x
        x = layer_norm(f"{name}.attention.output.LayerNorm", attended)
        inner = gelu(linear(f"{name}.intermediate.dense", x))
        x = layer_norm(f"{name}.output.LayerNorm", linear(f"{name}.output.dense", inner) + x)
    return x


def embed(weights, config, ids, pooling="mean", normalize=True):
    """Returns the embedding of one text's token ids."""
    states = forward(weights, config, ids)
    pooled = {"cls": states[0], "lasttoken": states[-1], "mean": states.mean(0)}
    vector = pooled[pooling]
    return vector / np.linalg.norm(vector) if normalize else vector


def classify(weights, config, ids, types=None):
    """Returns the logits of one text or pair."""
    tensors = {name: array.astype(np.float64) for name, array in weights.items()}
    first = forward(weights, config, ids, types)[0]
    pooled = np.tanh(tensors["pooler.dense.weight"] @ first + tensors["pooler.dense.bias"])
    return tensors["classifier.weight"] @ pooled + tensors["classifier.bias"]
