"""cohere-python: both of its clients, on /v1/rerank, /v2/rerank, /v1/embed and /v2/embed."""

import asyncio

import cohere
import numpy as np
import pytest

from reference import close, close_golden, golden, rerank_case, tiny

NO_RETRIES = {"max_retries": 0}


@pytest.fixture
def client(server):
    return cohere.Client(api_key="none", base_url=server.url)


@pytest.fixture
def client_v2(server):
    return cohere.ClientV2(api_key="none", base_url=server.url)


def check(answer, scores, count=None):
    order = list(np.argsort(-scores))[:count]
    assert [item.index for item in answer.results] == order
    close([item.relevance_score for item in answer.results], scores[order])
    assert all(0 <= item.relevance_score <= 1 for item in answer.results)


def test_v2(client_v2):
    query, texts, scores = rerank_case()
    answer = client_v2.rerank(model="rerank", query=query, documents=texts, request_options=NO_RETRIES)
    check(answer, scores)


def test_v2_with_top_n_and_a_token_limit(client_v2):
    query, texts, scores = rerank_case()
    answer = client_v2.rerank(
        model="rerank",
        query=query,
        documents=texts,
        top_n=2,
        max_tokens_per_doc=4096,
        request_options=NO_RETRIES,
    )
    check(answer, scores, 2)


def test_v1(client):
    query, texts, scores = rerank_case()
    answer = client.rerank(model="rerank", query=query, documents=texts, request_options=NO_RETRIES)
    check(answer, scores)
    assert all(item.document is None for item in answer.results)


def test_v1_returns_documents(client):
    query, texts, scores = rerank_case()
    answer = client.rerank(
        model="rerank",
        query=query,
        documents=texts,
        top_n=3,
        return_documents=True,
        request_options=NO_RETRIES,
    )
    check(answer, scores, 3)
    assert [item.document.text for item in answer.results] == [texts[item.index] for item in answer.results]


def test_v1_accepts_documents_as_objects(client):
    query, texts, scores = rerank_case()
    documents = [{"text": text} for text in texts]
    answer = client.rerank(model="rerank", query=query, documents=documents, request_options=NO_RETRIES)
    check(answer, scores)


def test_v1_embeds(client):
    texts, expected = golden()
    call = {"texts": texts, "model": "minilm", "request_options": NO_RETRIES}
    close_golden(client.embed(**call).embeddings, expected)
    by_type = client.embed(**call, input_type="search_document", embedding_types=["float"])
    close_golden(by_type.embeddings.float_, expected)


def test_v2_embeds(client_v2):
    texts, expected = golden()
    call = {
        "texts": texts[:4],
        "model": "minilm",
        "input_type": "search_query",
        "embedding_types": ["float"],
        "request_options": NO_RETRIES,
    }
    close_golden(client_v2.embed(**call).embeddings.float_, expected[:4])
    cut = expected[:4, :64]
    shorter = client_v2.embed(**call, output_dimension=64, truncate="END").embeddings.float_
    close_golden(shorter, cut / np.linalg.norm(cut, axis=1, keepdims=True))


def test_an_unknown_model_is_not_found(client, client_v2):
    for each in (client, client_v2):
        with pytest.raises(cohere.NotFoundError) as refused:
            each.rerank(model="nobody", query="a", documents=["b"], request_options=NO_RETRIES)
        assert "nobody" in refused.value.body["message"]


def test_no_documents_and_too_many_are_refused(client_v2):
    for documents in ([], ["a"] * 50_000):
        with pytest.raises((cohere.BadRequestError, cohere.UnprocessableEntityError)) as refused:
            client_v2.rerank(model="rerank", query="a", documents=documents, request_options=NO_RETRIES)
        assert refused.value.body["message"]


def test_an_embedder_does_not_rerank(client_v2):
    with pytest.raises(cohere.core.ApiError) as refused:
        client_v2.rerank(model="tiny", query="a", documents=["b"], request_options=NO_RETRIES)
    assert refused.value.status_code == 424
    assert "embed" in refused.value.body["message"]


def test_asynchronously(server):
    query, texts, scores = rerank_case()

    async def both():
        call = {"model": "rerank", "query": query, "documents": texts, "request_options": NO_RETRIES}
        one = cohere.AsyncClient(api_key="none", base_url=server.url)
        two = cohere.AsyncClientV2(api_key="none", base_url=server.url)
        return await asyncio.gather(one.rerank(**call), two.rerank(**call))

    for answer in asyncio.run(both()):
        check(answer, scores)


@pytest.mark.parametrize(
    ("input_type", "prompt"),
    [("search_query", "query"), ("search_document", "passage"), ("clustering", "passage")],
)
def test_the_input_type_selects_the_prompt(client_v2, input_type, prompt):
    """The model has no prompt for clustering, so its default one is used."""
    reference = tiny()
    answer = client_v2.embed(
        model="prompts",
        texts=reference["texts"],
        input_type=input_type,
        embedding_types=["float"],
        request_options=NO_RETRIES,
    )
    close(answer.embeddings.float_, reference["prompts"][prompt])
