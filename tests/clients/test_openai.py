"""openai-python on /v1. It requests and decodes base64 by default. Retries are disabled because they would hide
failures."""

import asyncio
import base64

import numpy as np
import openai
import pytest

from reference import close, close_golden, golden, run_text, tiny, token_ids


@pytest.fixture
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def vectors(answer):
    assert answer.object == "list"
    assert [item.index for item in answer.data] == list(range(len(answer.data)))
    assert all(item.object == "embedding" for item in answer.data)
    return np.array([item.embedding for item in answer.data])


def test_a_string(client):
    texts, expected = golden()
    answer = client.embeddings.create(model="minilm", input=texts[0])
    close_golden(vectors(answer), expected[:1])
    assert answer.model == "minilm"
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == len(token_ids("minilm", texts[0]))


def test_a_list(client):
    texts, expected = golden()
    close_golden(vectors(client.embeddings.create(model="minilm", input=texts)), expected)


def test_floats_and_base64_agree(client):
    texts, _ = golden()
    floats = client.embeddings.create(model="minilm", input=texts[:3], encoding_format="float")
    coded = client.embeddings.create(model="minilm", input=texts[:3], encoding_format="base64")
    assert all(isinstance(item.embedding, str) for item in coded.data)
    decoded = [np.frombuffer(base64.b64decode(item.embedding), dtype="<f4") for item in coded.data]
    close(vectors(floats), decoded, 1e-7)


def test_the_usage_counts_the_tokens_of_all_texts(client):
    reference = tiny()
    answer = client.embeddings.create(model="tiny", input=reference["texts"])
    close(vectors(answer), reference["models"]["a"])
    assert answer.usage.prompt_tokens == sum(reference["tokens"])


def test_token_ids(client):
    texts, expected = golden()
    ids = [token_ids("minilm", text) for text in texts[:3]]
    close_golden(vectors(client.embeddings.create(model="minilm", input=ids)), expected[:3])
    close_golden(vectors(client.embeddings.create(model="minilm", input=ids[1])), expected[1:2])


def test_token_ids_of_another_vocabulary_are_refused(client):
    # tiktoken's ids for "How big is London"; langchain-openai sends such ids by default.
    with pytest.raises((openai.UnprocessableEntityError, openai.BadRequestError)) as refused:
        client.embeddings.create(model="minilm", input=[[4438, 2466, 374, 7295, 99999]])
    assert "99999" in str(refused.value)


def test_dimensions_truncate_and_normalize(client):
    texts, expected = golden()
    answer = client.embeddings.create(model="minilm", input=texts[:2], dimensions=64)
    cut = expected[:2, :64]
    close_golden(vectors(answer), cut / np.linalg.norm(cut, axis=1, keepdims=True))


@pytest.mark.parametrize("dimensions", [0, 385])
def test_impossible_dimensions_are_refused(client, dimensions):
    with pytest.raises((openai.UnprocessableEntityError, openai.BadRequestError)):
        client.embeddings.create(model="minilm", input="a", dimensions=dimensions)


def test_a_user_is_accepted(client):
    texts, expected = golden()
    answer = client.embeddings.create(model="minilm", input=texts[0], user="someone")
    close_golden(vectors(answer), expected[:1])


def test_a_raw_response_names_the_generation(client):
    raw = client.embeddings.with_raw_response.create(model="minilm", input="a")
    assert raw.headers["x-model-name"] == "minilm"
    assert int(raw.headers["x-model-generation"]) >= 1
    assert len(raw.parse().data) == 1


def test_last_token_pooling(client):
    reference = tiny()
    answer = client.embeddings.create(model="last_token", input=reference["texts"])
    close(vectors(answer), reference["models"]["last_token"])


def test_long_texts_are_truncated(client):
    text = "word after word " * 60
    index = tiny()["texts"].index(text)
    answer = client.embeddings.create(model="tiny", input=text)
    close(vectors(answer)[0], tiny()["models"]["a"][index])


def test_models_are_listed(client):
    models = {model.id: model for model in client.models.list()}
    assert {"minilm", "tiny", "rerank", "classify", "tensor"} <= set(models)
    assert all(model.object == "model" for model in models.values())
    assert client.models.retrieve("tiny").id == "tiny"


def test_an_unknown_model_is_not_found(client):
    with pytest.raises(openai.NotFoundError) as refused:
        client.embeddings.create(model="nobody", input="a")
    assert refused.value.code == "model_not_found"
    assert refused.value.param == "model"
    assert "nobody" in refused.value.message
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nobody")


def test_a_model_for_another_task_is_refused(client):
    with pytest.raises(openai.APIStatusError) as refused:
        client.embeddings.create(model="rerank", input="a")
    assert refused.value.status_code == 424
    assert "rerank" in refused.value.message


@pytest.mark.parametrize("wrong", [[], ["a"] * 5000, [[]]])
def test_no_inputs_or_too_many_are_refused(client, wrong):
    with pytest.raises((openai.BadRequestError, openai.UnprocessableEntityError)) as refused:
        client.embeddings.create(model="tiny", input=wrong)
    assert refused.value.message


def test_an_unknown_encoding_is_refused(client):
    with pytest.raises((openai.BadRequestError, openai.UnprocessableEntityError)):
        client.embeddings.create(model="tiny", input="a", encoding_format="hex")


def test_concurrent_async_requests(server):
    texts, expected = golden()

    async def calls_all():
        url = f"{server.url}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
            calls = [client.embeddings.create(model="minilm", input=text) for text in texts]
            return await asyncio.gather(*calls)

    answers = asyncio.run(calls_all())
    close_golden([vectors(answer)[0] for answer in answers], expected)


def test_embeddings_match_onnx_runtime(client):
    """Computes a text that is in no list of references with ONNX Runtime and numpy."""
    text = "hello world of the model server"
    states = run_text("tiny/a", text).mean(0)
    close(vectors(client.embeddings.create(model="tiny", input=text))[0], states / np.linalg.norm(states))
