"""openai: search in vector stores, which are the collections that Qdrant's clients fill."""

import asyncio

import openai
import pytest
from qdrant_client import QdrantClient, models

from corpus import QUERIES, TEXTS, TOPICS, YEARS, nearest, same
from server import MODELS


def connect(server):
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def fill(server, model, dimension):
    client = QdrantClient(url=server.url, cloud_inference=True)
    if client.collection_exists("store"):
        client.delete_collection("store")
    vectors = models.VectorParams(size=dimension, distance=models.Distance.COSINE)
    client.create_collection("store", vectors)
    points = [
        models.PointStruct(
            id=index,
            vector=models.Document(text=text, model=model),
            payload={"filename": f"{index}.txt", "topic": TOPICS[index], "year": YEARS[index], "list": [1]},
        )
        for index, text in enumerate(TEXTS)
    ]
    client.upsert("store", points)
    client.close()


def pairs(page):
    return [(int(result.file_id), result.score) for result in page.data]


@pytest.fixture(scope="module")
def client(search_server):
    fill(search_server, "minilm", 384)
    with connect(search_server) as client:
        yield client


@pytest.mark.parametrize("query", QUERIES)
def test_documents_are_found_by_their_meaning(search_server, client, query):
    page = client.vector_stores.search("store", query=query, max_num_results=5)
    expected = nearest(search_server, "minilm", query)
    same(pairs(page), expected)
    assert len(page.data) == 5
    for result in page.data:
        index = int(result.file_id)
        assert result.filename == f"{index}.txt"
        assert [(part.type, part.text) for part in result.content] == [("text", TEXTS[index])]
        assert result.attributes == {"filename": f"{index}.txt", "topic": TOPICS[index], "year": YEARS[index]}
    threshold = (expected[1][1] + expected[1][2]) / 2
    options = {"score_threshold": threshold, "ranker": "auto"}
    assert len(client.vector_stores.search("store", query=query, ranking_options=options).data) == 2


def comparison(kind, key, value):
    return {"type": kind, "key": key, "value": value}


FILTERS = [
    (comparison("eq", "topic", "city"), {0, 1, 2}),
    (comparison("ne", "topic", "city"), {3, 4, 5, 6, 7, 8, 9}),
    (comparison("in", "topic", ["food", "weather"]), {7, 8, 9}),
    (comparison("nin", "year", [2010, 2011]), {2, 3, 4, 5, 6, 7, 8, 9}),
    (comparison("eq", "year", 2013), {3}),
    (comparison("gt", "year", 2017.5), {8, 9}),
    (
        {
            "type": "or",
            "filters": [
                comparison("lt", "year", 2011),
                {"type": "and", "filters": [comparison("eq", "topic", "food"), comparison("gte", "year", 2018)]},
            ],
        },
        {0, 8},
    ),
]


@pytest.mark.parametrize("filters,expected", FILTERS)
def test_filters(search_server, client, filters, expected):
    page = client.vector_stores.search("store", query=QUERIES[0], filters=filters)
    same(pairs(page), nearest(search_server, "minilm", QUERIES[0], expected))
    assert len(page.data) == len(expected)


def test_several_queries_return_each_document_once(search_server, client):
    page = client.vector_stores.search("store", query=QUERIES[:2], max_num_results=10)
    best = {}
    for query in QUERIES[:2]:
        order, cosines = nearest(search_server, "minilm", query)
        for index, cosine in zip(order, cosines):
            best[index] = max(best.get(index, -1), cosine)
    order = sorted(best, key=lambda index: -best[index])
    same(pairs(page), (order, [best[index] for index in order]))


def test_stores_are_listed_and_described(client):
    assert "store" in [store.id for store in client.vector_stores.list()]
    store = client.vector_stores.retrieve("store")
    assert (store.object, store.status, store.name) == ("vector_store", "completed", "store")
    assert store.file_counts.completed == len(TEXTS)


def test_errors(client):
    search = client.vector_stores.search
    with pytest.raises(openai.NotFoundError, match="none"):
        search("none", query="x")
    for wrong in (
        {"max_num_results": 51},
        {"rewrite_query": True},
        {"filters": comparison("gt", "year", "x")},
        {"filters": {"type": "like", "key": "year", "value": 1}},
    ):
        with pytest.raises((openai.UnprocessableEntityError, openai.BadRequestError)):
            search("store", query="x", **wrong)
    with pytest.raises(openai.NotFoundError, match="none"):
        search("store", query="x", ranking_options={"ranker": "none-such"})


def test_asynchronously(search_server, client):
    async def ask():
        async with openai.AsyncOpenAI(base_url=f"{search_server.url}/v1", api_key="none") as client:
            return await client.vector_stores.search("store", query=QUERIES[1])

    same(pairs(asyncio.run(ask())), nearest(search_server, "minilm", QUERIES[1]))


def test_an_update_keeps_texts_right(updatable_server):
    server = updatable_server
    fill(server, "m", server.embed("m", ["x"]).shape[1])
    with connect(server) as client:
        before = client.vector_stores.search("store", query=QUERIES[0])
        same(pairs(before), nearest(server, "m", QUERIES[0]))
        server.update("m", MODELS / "tiny/b")
        after = client.vector_stores.with_raw_response.search("store", query=QUERIES[0])
        same(pairs(after.parse()), nearest(server, "m", QUERIES[0]))
        assert after.headers["x-model-generation"] == "2"
