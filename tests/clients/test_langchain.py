"""langchain-openai and langchain-huggingface.

langchain-openai counts and cuts texts with tiktoken by default and sends its ids, which mean nothing to
another vocabulary; its documentation says to switch that off for other servers."""

import asyncio

import pytest
from huggingface_hub import AsyncInferenceClient, InferenceClient
from langchain_huggingface import HuggingFaceEndpointEmbeddings
from langchain_openai import OpenAIEmbeddings

from reference import close_golden, golden


@pytest.fixture
def open_ai(server):
    return OpenAIEmbeddings(
        model="minilm",
        base_url=f"{server.url}/v1",
        api_key="none",
        check_embedding_ctx_length=False,
        max_retries=0,
    )


@pytest.fixture
def hugging_face(server):
    """It takes no URL itself, so its client is replaced by the same client with one."""
    embeddings = HuggingFaceEndpointEmbeddings(model="minilm", huggingfacehub_api_token="none")
    embeddings.client = InferenceClient(model=server.url)
    embeddings.async_client = AsyncInferenceClient(model=server.url)
    return embeddings


@pytest.mark.parametrize("kind", ["open_ai", "hugging_face"])
def test_documents_and_queries(request, kind):
    embeddings = request.getfixturevalue(kind)
    texts, expected = golden()
    # langchain-huggingface puts a space in the place of a line break.
    chosen = [place for place, text in enumerate(texts) if text and "\n" not in text]
    documents = [texts[place] for place in chosen]
    close_golden(embeddings.embed_documents(documents), expected[chosen])
    close_golden(embeddings.embed_query(documents[0]), expected[chosen[0]])


@pytest.mark.parametrize("kind", ["open_ai", "hugging_face"])
def test_asynchronously(request, kind):
    embeddings = request.getfixturevalue(kind)
    texts, expected = golden()

    async def both():
        return await embeddings.aembed_documents(texts[:3]), await embeddings.aembed_query(texts[0])

    documents, query = asyncio.run(both())
    close_golden(documents, expected[:3])
    close_golden(query, expected[0])


def test_more_documents_than_one_request_takes(open_ai):
    texts, expected = golden()
    open_ai.chunk_size = 16
    many = (texts * 4)[:50]
    answer = open_ai.embed_documents(many)
    close_golden(answer, [expected[place % len(texts)] for place in range(50)])
