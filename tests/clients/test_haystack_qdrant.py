"""qdrant-haystack's document store and retriever with Haystack's embedders for OpenAI."""

import pytest
from haystack import Document
from haystack.components.embedders import OpenAIDocumentEmbedder, OpenAITextEmbedder
from haystack.document_stores.errors import DuplicateDocumentError
from haystack.document_stores.types import DuplicatePolicy
from haystack.utils import Secret
from haystack_integrations.components.retrievers.qdrant import QdrantEmbeddingRetriever
from haystack_integrations.document_stores.qdrant import QdrantDocumentStore
from qdrant_client.http.exceptions import UnexpectedResponse

from corpus import QUERIES, TEXTS, TOPICS, YEARS, nearest, same
from server import MODELS


def options(server, model):
    key = Secret.from_token("none")
    return {"api_key": key, "model": model, "api_base_url": f"{server.url}/v1", "max_retries": 0}


def filled(server, model, dimension):
    store = QdrantDocumentStore(
        url=server.url,
        index="haystack",
        embedding_dim=dimension,
        recreate_index=True,
        payload_fields_to_index=[{"field_name": "meta.topic", "field_schema": "keyword"}],
    )
    documents = [
        Document(content=text, meta={"index": index, "topic": TOPICS[index], "year": YEARS[index]})
        for index, text in enumerate(TEXTS)
    ]
    embedded = OpenAIDocumentEmbedder(**options(server, model), progress_bar=False).run(documents)
    assert store.write_documents(embedded["documents"]) == len(TEXTS)
    return store


def embed(server, model, query):
    return OpenAITextEmbedder(**options(server, model)).run(query)["embedding"]


def ask(store, embedding, **options):
    retriever = QdrantEmbeddingRetriever(store, top_k=5, scale_score=False)
    return retriever.run(embedding, **options)["documents"]


def pairs(documents):
    return [(document.meta["index"], document.score) for document in documents]


def test_documents_are_found_by_their_meaning(search_server):
    store = filled(search_server, "minilm", 384)
    for query in QUERIES:
        found = ask(store, embed(search_server, "minilm", query))
        same(pairs(found), nearest(search_server, "minilm", query))
        assert all(document.content == TEXTS[document.meta["index"]] for document in found)


def test_filters_groups_and_counts(search_server):
    store = filled(search_server, "minilm", 384)
    filters = {
        "operator": "AND",
        "conditions": [
            {"field": "meta.topic", "operator": "in", "value": ["city", "food"]},
            {"field": "meta.year", "operator": ">", "value": 2010},
            {"operator": "NOT", "conditions": [{"field": "meta.topic", "operator": "==", "value": "food"}]},
        ],
    }
    embedding = embed(search_server, "minilm", QUERIES[0])
    same(pairs(ask(store, embedding, filters=filters)), nearest(search_server, "minilm", QUERIES[0], {1, 2}))
    grouped = ask(store, embedding, group_by="meta.topic", group_size=1)
    assert sorted(document.meta["topic"] for document in grouped) == sorted(set(TOPICS))
    assert store.count_documents() == len(TEXTS)
    kept = store.filter_documents(filters)
    assert {document.meta["index"] for document in kept} == {1, 2}
    assert store.count_documents_by_filter(filters) == 2
    assert kept[0].embedding is not None and len(kept[0].embedding) == 384


def test_duplicates_updates_and_deletion(search_server):
    store = filled(search_server, "minilm", 384)
    some = store.filter_documents({"field": "meta.topic", "operator": "==", "value": "animal"})
    with pytest.raises(DuplicateDocumentError):
        store.write_documents(some, policy=DuplicatePolicy.FAIL)
    store.delete_documents([document.id for document in some])
    assert store.count_documents() == len(TEXTS) - 2
    assert store.delete_by_filter({"field": "meta.topic", "operator": "==", "value": "city"}) == 3
    assert store.count_documents() == len(TEXTS) - 5


def test_an_update_keeps_texts_right_and_refuses_old_vectors(updatable_server):
    server = updatable_server
    old = embed(server, "m", QUERIES[0])
    store = filled(server, "m", len(old))
    same(pairs(ask(store, old)), nearest(server, "m", QUERIES[0]))
    server.update("m", MODELS / "tiny/b")
    new = embed(server, "m", QUERIES[0])
    same(pairs(ask(store, new)), nearest(server, "m", QUERIES[0]))
    with pytest.raises(Exception, match="the vector was made by version") as raised:
        ask(store, old)
    assert isinstance(raised.value, UnexpectedResponse) or isinstance(raised.value.__cause__, UnexpectedResponse)
