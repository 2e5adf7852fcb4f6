"""langchain-openai and langchain-huggingface.

langchain-openai tokenizes texts with tiktoken by default and sends token ids, which are meaningless for other
vocabularies. Its documentation says to disable that for other servers."""

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
    """Accepts no URL, so its client is replaced with one that has the URL."""
    embeddings = HuggingFaceEndpointEmbeddings(model="minilm", huggingfacehub_api_token="none")
    embeddings.client = InferenceClient(model=server.url)
    embeddings.async_client = AsyncInferenceClient(model=server.url)
    return embeddings


@pytest.mark.parametrize("kind", ["open_ai", "hugging_face"])
def test_documents_and_queries(request, kind):
    embeddings = request.getfixturevalue(kind)
    texts, expected = golden()
    # langchain-huggingface replaces line breaks with spaces.
    chosen = [index for index, text in enumerate(texts) if text and "\n" not in text]
    documents = [texts[index] for index in chosen]
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


def test_documents_beyond_the_chunk_size(open_ai):
    texts, expected = golden()
    open_ai.chunk_size = 16
    many = (texts * 4)[:50]
    answer = open_ai.embed_documents(many)
    close_golden(answer, [expected[index % len(texts)] for index in range(50)])
