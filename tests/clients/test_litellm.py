"""litellm: each of its providers that accepts a URL and uses one of our contracts."""

import asyncio

import litellm
import numpy as np
import pytest

from reference import close, close_golden, golden, rerank_case

COMMON = {"api_key": "none", "num_retries": 0, "max_retries": 0}


def vectors(answer):
    return np.array([item["embedding"] for item in answer.data])


@pytest.mark.parametrize("provider", ["openai", "hosted_vllm", "infinity"])
def test_embeddings_of_openai_compatible_providers(server, provider):
    texts, expected = golden()
    call = {"model": f"{provider}/minilm", "input": texts[:4], "api_base": f"{server.url}/v1", **COMMON}
    answer = litellm.embedding(**call)
    close_golden(vectors(answer), expected[:4])
    assert answer.usage.prompt_tokens > 0
    answer = asyncio.run(litellm.aembedding(**call))
    close_golden(vectors(answer), expected[:4])


def test_embeddings_with_dimensions(server):
    texts, expected = golden()
    answer = litellm.embedding(
        model="openai/minilm",
        input=texts[:2],
        dimensions=64,
        encoding_format="float",
        allowed_openai_params=["dimensions"],
        api_base=f"{server.url}/v1",
        **COMMON,
    )
    cut = expected[:2, :64]
    close_golden(vectors(answer), cut / np.linalg.norm(cut, axis=1, keepdims=True))


def test_embeddings_of_text_embeddings_inference(server):
    texts, expected = golden()
    # Without an input type, litellm would query the hub for it.
    answer = litellm.embedding(
        model="huggingface/minilm",
        input=texts[:3],
        input_type="feature-extraction",
        api_base=server.url,
        **COMMON,
    )
    close_golden(vectors(answer), expected[:3])


@pytest.mark.parametrize(
    ("provider", "path"),
    [("cohere", ""), ("jina_ai", ""), ("infinity", "/v1"), ("hosted_vllm", ""), ("hosted_vllm", "/v1")],
)
def test_reranking(server, provider, path):
    query, texts, scores = rerank_case()
    # infinity returns documents as strings. All others, and onnxd, return objects with a text.
    with_documents = provider != "infinity"
    answer = litellm.rerank(
        model=f"{provider}/rerank",
        query=query,
        documents=texts,
        top_n=3,
        return_documents=with_documents,
        api_base=f"{server.url}{path}",
        **COMMON,
    )
    order = list(np.argsort(-scores))[:3]
    assert [item["index"] for item in answer.results] == order
    close([item["relevance_score"] for item in answer.results], scores[order])
    if with_documents:
        assert [item["document"]["text"] for item in answer.results] == [texts[index] for index in order]


def test_reranking_of_text_embeddings_inference(rerank_server):
    query, texts, scores = rerank_case()
    answer = litellm.rerank(
        model="huggingface/rerank",
        query=query,
        documents=texts,
        return_documents=True,
        api_base=rerank_server.url,
        **COMMON,
    )
    order = list(np.argsort(-scores))
    assert [item["index"] for item in answer.results] == order
    close([item["relevance_score"] for item in answer.results], scores[order])


def test_an_unknown_model_is_not_found(server):
    with pytest.raises(litellm.NotFoundError):
        litellm.embedding(model="openai/nobody", input=["a"], api_base=f"{server.url}/v1", **COMMON)
