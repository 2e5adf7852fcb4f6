"""TEI's routes that no client in these tests covers, called as in TEI's documentation."""

import numpy as np
import pytest
import requests

from reference import close, rerank_case, run_text, sigmoid, softmax, tiny, token_ids, tokenizer


@pytest.fixture
def post(server):
    def call(route, **body):
        return requests.post(f"{server.url}{route}", json=body, timeout=30)

    return call


def test_rerank_sorts_by_score(post):
    query, texts, scores = rerank_case()
    answer = post("/rerank", model="rerank", query=query, texts=texts)
    assert answer.status_code == 200, answer.text
    ranked = answer.json()
    assert [set(item) for item in ranked] == [{"index", "score"}] * len(texts)
    order = list(np.argsort(-scores))
    assert [item["index"] for item in ranked] == order
    close([item["score"] for item in ranked], scores[order])


def test_rerank_with_raw_scores_and_texts(post):
    query, texts, scores = rerank_case()
    body = {"model": "rerank", "query": query, "texts": texts}
    ranked = post("/rerank", **body, raw_scores=True, return_text=True).json()
    assert [item["text"] for item in ranked] == [texts[item["index"]] for item in ranked]
    close(sigmoid([item["score"] for item in ranked]), [scores[item["index"]] for item in ranked])


def test_rerank_truncates_the_longer_part_of_a_pair_first(post):
    for item in tiny()["truncated"]["rerank_a"]:
        body = {"model": "rerank", "query": item["query"], "texts": [item["text"]], "raw_scores": True}
        answer = post("/rerank", **body, truncate=True)
        assert answer.status_code == 200, answer.text
        close(answer.json()[0]["score"], item["logit"])
        assert post("/rerank", **body, truncate=False).status_code == 422


def test_predict_accepts_texts_pairs_and_lists_of_both(post):
    labels = ["negative", "neutral", "positive"]
    items = [item for item in tiny()["classify"]["classify_a"] if item["text"]]
    inputs = [[item["text"], item["second"]] if "second" in item else [item["text"]] for item in items]

    def check(predicted, item):
        expected = softmax(item["logits"])
        assert [entry["score"] for entry in predicted] == sorted(
            (entry["score"] for entry in predicted), reverse=True
        )
        close([{e["label"]: e["score"] for e in predicted}[label] for label in labels], expected)

    for predicted, item in zip(post("/predict", model="classify", inputs=inputs).json(), items):
        check(predicted, item)
    check(post("/predict", model="classify", inputs=items[0]["text"]).json(), items[0])
    pair = next(item for item in items if item.get("second"))
    check(post("/predict", model="classify", inputs=[pair["text"], pair["second"]]).json(), pair)


def test_predict_with_raw_scores(post):
    item = tiny()["classify"]["classify_a"][1]
    answer = post("/predict", model="classify", inputs=item["text"], raw_scores=True).json()
    close(sorted((entry["score"] for entry in answer), reverse=True), sorted(item["logits"], reverse=True))


def test_multi_label_predict_applies_a_sigmoid_to_each_label(post):
    item = tiny()["classify"]["classify_multi"][1]
    answer = {e["label"]: e["score"] for e in post("/predict", model="multi", inputs=item["text"]).json()}
    expected = sigmoid(item["logits"])
    close([answer[label] for label in ("negative", "neutral", "positive")], expected)


def test_embed_all(post):
    text = "How big is London"
    answer = post("/embed_all", model="tiny", inputs=[text]).json()
    close(answer[0], run_text("tiny/a", text))


def test_tokenize_and_decode(post):
    text = "How big is London?"
    tokens = post("/tokenize", model="minilm", inputs=text).json()[0]
    encoding = tokenizer("minilm").encode(text)
    assert [token["id"] for token in tokens] == encoding.ids
    assert [token["special"] for token in tokens] == [mask == 1 for mask in encoding.special_tokens_mask]
    spans = [(t["start"], t["stop"]) for t in tokens if not t["special"]]
    assert [text[start:stop] for start, stop in spans] == ["How", "big", "is", "London", "?"]
    bare = post("/tokenize", model="minilm", inputs=[text], add_special_tokens=False).json()[0]
    assert [token["id"] for token in bare] == encoding.ids[1:-1]
    decoded = post("/decode", model="minilm", ids=encoding.ids).json()
    assert decoded == ["how big is london?"]
    assert post("/decode", model="minilm", ids=[encoding.ids[1:3]]).json() == ["how big"]


def test_similarity(post):
    reference = tiny()
    texts, vectors = reference["texts"], np.array(reference["models"]["a"])
    body = {"source_sentence": texts[1], "sentences": texts[2:5]}
    answer = post("/similarity", model="tiny", inputs=body)
    close(answer.json(), vectors[2:5] @ vectors[1])


def test_response_headers_report_sizes_and_times(post):
    headers = post("/embed", model="tiny", inputs="How big is London").headers
    times = ("compute-time", "total-time", "tokenization-time", "queue-time", "inference-time")
    assert all(int(headers[f"x-{name}"]) >= 0 for name in times)
    assert int(headers["x-compute-characters"]) == 17
    assert int(headers["x-compute-tokens"]) == len(token_ids("tiny/a", "How big is London"))
    assert headers["x-compute-type"]


def test_health_and_ping(server):
    for route in ("/health", "/ping"):
        assert requests.get(f"{server.url}{route}", timeout=10).status_code == 200


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("/embed", {"model": "rerank", "inputs": "a"}),
        ("/embed_all", {"model": "classify", "inputs": "a"}),
        ("/similarity", {"model": "rerank", "inputs": {"source_sentence": "a", "sentences": ["b"]}}),
        ("/predict", {"model": "tiny", "inputs": "a"}),
        ("/rerank", {"model": "tiny", "query": "a", "texts": ["b"]}),
        ("/embed", {"model": "tensor", "inputs": "a"}),
    ],
)
def test_a_call_for_another_task_is_a_failed_dependency(post, route, body):
    answer = post(route, **body)
    assert answer.status_code == 424, answer.text
    assert answer.json()["error_type"] == "Backend"
