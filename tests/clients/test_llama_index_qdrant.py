"""llama-index's Qdrant vector store with its embedder for text-embeddings-inference."""

import asyncio

import pytest
from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores import (
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
)
from llama_index.embeddings.text_embeddings_inference import TextEmbeddingsInference
from llama_index.vector_stores.qdrant import QdrantVectorStore
from qdrant_client import AsyncQdrantClient, QdrantClient
from qdrant_client.http.exceptions import UnexpectedResponse

from corpus import QUERIES, TEXTS, TOPICS, YEARS, nearest, same
from server import MODELS


def build(server, model):
    """Returns an index of the texts, and its embedder. The embedder names no model, so the first one answers."""
    embedder = TextEmbeddingsInference(model_name=model, base_url=server.url, embed_batch_size=4)
    client = QdrantClient(url=server.url)
    if client.collection_exists("llama"):
        client.delete_collection("llama")
    store = QdrantVectorStore(
        "llama", client=client, aclient=AsyncQdrantClient(url=server.url), batch_size=4
    )
    nodes = [
        TextNode(text=text, metadata={"index": index, "topic": TOPICS[index], "year": YEARS[index]})
        for index, text in enumerate(TEXTS)
    ]
    for node in nodes:
        # Otherwise the text that is embedded has the metadata before it.
        node.excluded_embed_metadata_keys = list(node.metadata)
    context = StorageContext.from_defaults(vector_store=store)
    return VectorStoreIndex(nodes, storage_context=context, embed_model=embedder), embedder


def pairs(found):
    return [(node.node.metadata["index"], node.score) for node in found]


def test_nodes_are_found_by_their_meaning(search_server):
    index, _ = build(search_server, "minilm")
    for query in QUERIES:
        found = index.as_retriever(similarity_top_k=5).retrieve(query)
        same(pairs(found), nearest(search_server, "minilm", query))
        assert all(node.node.text == TEXTS[node.node.metadata["index"]] for node in found)
    found = asyncio.run(index.as_retriever(similarity_top_k=5).aretrieve(QUERIES[0]))
    same(pairs(found), nearest(search_server, "minilm", QUERIES[0]))


def test_filters_nodes_and_deletion(search_server):
    index, _ = build(search_server, "minilm")
    filters = MetadataFilters(
        filters=[
            MetadataFilter(key="topic", value=["city", "food"], operator=FilterOperator.IN),
            MetadataFilter(key="year", value=2011, operator=FilterOperator.GTE),
            MetadataFilter(key="topic", value="food", operator=FilterOperator.NE),
        ]
    )
    found = index.as_retriever(similarity_top_k=5, filters=filters).retrieve(QUERIES[0])
    same(pairs(found), nearest(search_server, "minilm", QUERIES[0], {1, 2}))
    assert len(found) == 2
    store = index.vector_store
    ids = [node.node.node_id for node in found]
    assert {node.node_id for node in store.get_nodes(ids)} == set(ids)
    store.delete_nodes(ids)
    assert len(store.get_nodes(ids)) == 0
    left = pairs(index.as_retriever(similarity_top_k=10).retrieve(QUERIES[0]))
    assert {index for index, _ in left} == set(range(10)) - {1, 2}
    store.clear()
    assert not store._collection_exists("llama")


def test_an_update_keeps_texts_right_and_refuses_old_vectors(updatable_server):
    server = updatable_server
    index, embedder = build(server, "m")
    retriever = index.as_retriever(similarity_top_k=5)
    old = embedder.get_query_embedding(QUERIES[0])
    same(pairs(retriever.retrieve(QUERIES[0])), nearest(server, "m", QUERIES[0]))
    server.update("m", MODELS / "tiny/b")
    same(pairs(retriever.retrieve(QUERIES[0])), nearest(server, "m", QUERIES[0]))
    with pytest.raises(UnexpectedResponse, match="the vector was made by version"):
        index.vector_store.query(VectorStoreQuery(query_embedding=old, similarity_top_k=5))
