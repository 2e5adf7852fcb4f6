"""huggingface_hub's InferenceClient on TEI's routes. It posts to the given URL, so `/` must perform the task of the
first model. It names no model, so other routes are part of the URL."""

import asyncio

import numpy as np
import pytest
from huggingface_hub import AsyncInferenceClient, InferenceClient
from huggingface_hub.errors import HfHubHTTPError

from reference import close, close_golden, field, golden, sigmoid, softmax, tiny


@pytest.fixture
def client(server):
    return InferenceClient(model=server.url)


def test_feature_extraction(client):
    texts, expected = golden()
    one = client.feature_extraction(texts[0])
    assert one.dtype == np.float32
    close_golden(one, expected[:1])
    close_golden(client.feature_extraction(texts), expected)


def test_feature_extraction_on_the_embed_route(server):
    texts, expected = golden()
    close_golden(InferenceClient(f"{server.url}/embed").feature_extraction(texts[0]), expected[:1])


def test_feature_extraction_returns_token_vectors(server):
    client = InferenceClient(f"{server.url}/embed_all")
    states = client.feature_extraction(["How big is London"], normalize=False)
    assert states.ndim == 3 and states.shape[0] == 1 and states.shape[2] == 384


def test_feature_extraction_without_normalization(client):
    texts, expected = golden()
    raw = client.feature_extraction(texts[:2], normalize=False)
    assert np.all(np.abs(np.linalg.norm(raw, axis=1) - 1) > 0.01)
    close_golden(raw / np.linalg.norm(raw, axis=1, keepdims=True), expected[:2])


def test_feature_extraction_with_dimensions(client):
    texts, expected = golden()
    cut = expected[:2, :32]
    answer = client.feature_extraction(texts[:2], dimensions=32)
    close_golden(answer, cut / np.linalg.norm(cut, axis=1, keepdims=True))


def test_an_encoding_format_is_ignored_as_in_tei(client):
    texts, expected = golden()
    answer = client.feature_extraction(texts[:1], encoding_format="float")
    close_golden(answer, expected[:1])


def test_truncation_removes_the_requested_side(client):
    long = "alpha " + "word " * 400 + "omega"
    right = client.feature_extraction(long, truncate=True, truncation_direction="right")
    left = client.feature_extraction(long, truncate=True, truncation_direction="left")
    close(right, client.feature_extraction("alpha " + "word " * 253))
    close(left, client.feature_extraction("word " * 253 + "omega"))
    with pytest.raises(HfHubHTTPError) as refused:
        client.feature_extraction(long, truncate=False)
    assert refused.value.response.status_code == 422


def test_prompts(prompts_server):
    client, reference = InferenceClient(prompts_server.url), tiny()
    texts = reference["texts"]
    close(client.feature_extraction(texts), reference["prompts"]["passage"])
    for name in ("query", "passage"):
        close(client.feature_extraction(texts, prompt_name=name), reference["prompts"][name])
    with pytest.raises(HfHubHTTPError) as refused:
        client.feature_extraction("a", prompt_name="nobody")
    assert refused.value.response.status_code == 422


def test_sentence_similarity(client):
    texts, expected = golden()
    answer = client.sentence_similarity(texts[0], other_sentences=texts[1:5])
    close_golden(answer, expected[1:5] @ expected[0])


def test_text_classification(classify_server):
    """For one text, TEI answers a list of labels. This client returns the first and best one."""
    client = InferenceClient(classify_server.url)
    labels = ["negative", "neutral", "positive"]
    for item in tiny()["classify"]["classify_a"]:
        if "second" in item or not item["text"]:
            continue
        scores = softmax(item["logits"])
        best = client.text_classification(item["text"])
        assert best.label == labels[int(np.argmax(scores))]
        close(best.score, scores.max())


@pytest.mark.parametrize(("function", "apply"), [("softmax", softmax), ("sigmoid", sigmoid), ("none", np.array)])
def test_text_classification_with_parameters(classify_server, function, apply):
    client = InferenceClient(classify_server.url)
    item = next(item for item in tiny()["classify"]["classify_a"] if "second" not in item and item["text"])
    scores = np.sort(apply(item["logits"]))[::-1][:2]
    answer = client.text_classification(item["text"], top_k=2, function_to_apply=function)
    close([label.score for label in answer], scores)


@pytest.mark.parametrize("strategy", ["none", "simple", "first", "average", "max"])
def test_token_classification(entities_server, strategy):
    client, expected = InferenceClient(entities_server.url), field("token-classifier")
    ignored = [] if strategy == "none" else None
    for text, entities in zip(expected["pipeline_texts"], expected["pipeline"][strategy]):
        answer = client.token_classification(text, aggregation_strategy=strategy, ignore_labels=ignored)
        names = ["start", "end", "word", "entity" if strategy == "none" else "entity_group"]
        assert [[each[name] for name in names] for each in answer] == [
            [each[name] for name in names] for each in entities
        ]
        close([each.score for each in answer], [each["score"] for each in entities], 1e-4)


def test_token_classification_is_simple_by_default_without_stride(entities_server):
    client, expected = InferenceClient(entities_server.url), field("token-classifier")
    text = expected["pipeline_texts"][0]
    assert client.token_classification(text) == client.token_classification(text, aggregation_strategy="simple")
    with pytest.raises(HfHubHTTPError) as refused:
        client.token_classification(text, stride=4)
    assert "stride" in refused.value.response.json()["error"]


@pytest.mark.parametrize("multi_label", [False, True])
def test_zero_shot_classification(entailment_server, multi_label):
    client, expected = InferenceClient(entailment_server.url), field("zero-shot-nli")
    labels, key = expected["candidate_labels"], "scores_multi_label" if multi_label else "scores"
    for text, scores in zip(expected["texts"], expected[key]):
        answer = client.zero_shot_classification(text, labels, multi_label=multi_label)
        found = {each.label: each.score for each in answer}
        close([found[label] for label in labels], scores, 1e-4)
        given = [each.score for each in answer]
        assert given == sorted(given, reverse=True)


def test_endpoint_info_and_health(server):
    client = InferenceClient(model=server.url, provider="hf-inference")
    info = client.get_endpoint_info()
    assert info["model_type"] == {"embedding": {"pooling": "mean"}}
    assert info["max_input_length"] == 256
    assert info["served_model_name"] == "minilm"
    assert len(info["model_sha"]) == 64
    assert client.health_check() is True


@pytest.mark.parametrize(("inputs", "status"), [([], 400), (["a"] * 5000, 422), ([["a", 1]], 422)])
def test_invalid_inputs_are_refused(client, inputs, status):
    with pytest.raises(HfHubHTTPError) as refused:
        client.feature_extraction(inputs)
    assert refused.value.response.status_code == status
    body = refused.value.response.json()
    assert body["error"] and body["error_type"] in ("Empty", "Validation")


def test_a_call_for_another_task_is_a_failed_dependency(classify_server):
    client = InferenceClient(f"{classify_server.url}/embed")
    with pytest.raises(HfHubHTTPError) as refused:
        client.feature_extraction("a")
    assert refused.value.response.status_code == 424
    assert "classif" in refused.value.response.json()["error"]


def test_asynchronously(server):
    texts, expected = golden()

    async def calls_all():
        async with AsyncInferenceClient(model=server.url, provider="hf-inference") as client:
            calls = [client.feature_extraction(text) for text in texts]
            similar = await client.sentence_similarity(texts[0], other_sentences=texts[1:3])
            assert await client.health_check() is True
            return await asyncio.gather(*calls), similar

    answers, similar = asyncio.run(calls_all())
    close_golden(np.concatenate(answers), expected)
    close_golden(similar, expected[1:3] @ expected[0])
