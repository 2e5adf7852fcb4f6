"""langchain-qdrant with langchain-openai: documents are embedded by onnxd, stored in it and found again."""

import asyncio

import pytest
from langchain_core.documents import Document
from langchain_openai import OpenAIEmbeddings
from langchain_qdrant import QdrantVectorStore
from qdrant_client import models
from qdrant_client.http.exceptions import UnexpectedResponse

from corpus import QUERIES, TEXTS, TOPICS, nearest, same
from server import MODELS


def embeddings(server, model="minilm"):
    return OpenAIEmbeddings(
        model=model,
        base_url=f"{server.url}/v1",
        api_key="none",
        check_embedding_ctx_length=False,
        max_retries=0,
    )


def pairs(found):
    return [(document.metadata["index"], score) for document, score in found]


def create(server, model="minilm", **options):
    metadatas = [{"index": index, "topic": topic} for index, topic in enumerate(TOPICS)]
    return QdrantVectorStore.from_texts(
        TEXTS,
        embeddings(server, model),
        metadatas,
        url=server.url,
        collection_name="langchain",
        force_recreate=True,
        **options,
    )


@pytest.fixture
def store(search_server):
    store = create(search_server)
    yield store
    store.client.delete_collection("langchain")


@pytest.mark.parametrize("query", QUERIES)
def test_documents_are_found_by_their_meaning(search_server, store, query):
    found = store.similarity_search_with_score(query, k=5)
    same(pairs(found), nearest(search_server, "minilm", query))
    assert all(document.page_content == TEXTS[document.metadata["index"]] for document, _ in found)
    only = models.Filter(
        must=[models.FieldCondition(key="metadata.topic", match=models.MatchValue(value="city"))]
    )
    found = store.similarity_search_with_score(query, k=5, filter=only)
    same(pairs(found), nearest(search_server, "minilm", query, {0, 1, 2}))
    assert len(found) == 3


def test_named_vectors_and_existing_collections(search_server, store):
    named = create(search_server, vector_name="dense", distance=models.Distance.DOT)
    found = named.similarity_search_with_score(QUERIES[0], k=3)
    same(pairs(found), nearest(search_server, "minilm", QUERIES[0]))
    again = QdrantVectorStore.from_existing_collection(
        "langchain",
        embeddings(search_server),
        url=search_server.url,
        vector_name="dense",
        distance=models.Distance.DOT,
    )
    added = again.add_documents([Document("A brown fox", metadata={"index": 10})])
    assert again.get_by_ids(added)[0].page_content == "A brown fox"
    assert again.similarity_search("A brown fox", k=1)[0].metadata["index"] == 10
    assert again.delete(added) and again.get_by_ids(added) == []


def test_diverse_results_and_retrievers(store):
    diverse = store.max_marginal_relevance_search(QUERIES[0], k=3, fetch_k=10)
    assert len({document.metadata["index"] for document in diverse}) == 3
    retriever = store.as_retriever(search_kwargs={"k": 2})
    assert retriever.invoke(QUERIES[0])[0].metadata["index"] in (0, 2)
    found = asyncio.run(store.asimilarity_search(QUERIES[1], k=1))
    assert found[0].metadata["topic"] == "animal"


def test_an_update_keeps_texts_right_and_refuses_old_vectors(updatable_server):
    server = updatable_server
    store = create(server, "m")
    old = embeddings(server, "m").embed_query(QUERIES[0])
    same(pairs(store.similarity_search_with_score(QUERIES[0])), nearest(server, "m", QUERIES[0]))
    server.update("m", MODELS / "tiny/b")
    same(pairs(store.similarity_search_with_score(QUERIES[0])), nearest(server, "m", QUERIES[0]))
    with pytest.raises(UnexpectedResponse, match="the vector was made by version"):
        store.similarity_search_by_vector(old)
