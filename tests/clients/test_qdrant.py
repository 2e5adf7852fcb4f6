"""qdrant-client over REST: collections, points, queries, filters, aliases, and an update of the model."""

import asyncio
import uuid
import warnings

import numpy as np
import pytest
import requests
from qdrant_client import AsyncQdrantClient, QdrantClient, models
from qdrant_client.http.exceptions import UnexpectedResponse
from qdrant_client.qdrant_remote import QdrantRemote

from corpus import QUERIES, TEXTS, TOPICS, YEARS, nearest, same
from server import MODELS

COSINE = models.Distance.COSINE


def connect(server, **options):
    # Texts are embedded by the server.
    return QdrantClient(url=server.url, cloud_inference=True, **options)


def text(content, model="minilm"):
    return models.Document(text=content, model=model)


def points(model="minilm", vector_name=None):
    for index, content in enumerate(TEXTS):
        vector = text(content, model)
        yield models.PointStruct(
            id=index,
            vector={vector_name: vector} if vector_name else vector,
            payload={
                "text": content,
                "topic": TOPICS[index],
                "year": YEARS[index],
                "more": {"even": index % 2 == 0, "tags": [TOPICS[index], "all"]},
            },
        )


def pairs(answer):
    return [(point.id, point.score) for point in answer.points]


@pytest.fixture
def client(search_server):
    client = connect(search_server)
    # Other modules share the server.
    for collection in client.get_collections().collections:
        client.delete_collection(collection.name)
    yield client
    client.close()


@pytest.fixture
def filled(client):
    vectors = models.VectorParams(size=384, distance=COSINE)
    client.create_collection("docs", vectors, metadata={"model": "minilm"})
    client.upsert("docs", list(points()))
    return client


def refused(status, call, *words):
    with pytest.raises(UnexpectedResponse) as raised:
        call()
    assert raised.value.status_code == status, raised.value
    message = str(raised.value.structured()["status"]["error"])
    for word in words:
        assert word in message, message


def test_the_version_check_passes(search_server):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        QdrantRemote._check_compatibility(search_server.url, {}, None, 10)


def test_collections_are_created_described_and_deleted(client):
    vectors = models.VectorParams(size=384, distance=COSINE, on_disk=True)
    assert client.create_collection(
        "docs",
        vectors,
        shard_number=1,
        hnsw_config=models.HnswConfigDiff(m=8),
        optimizers_config=models.OptimizersConfigDiff(indexing_threshold=0),
        metadata={"model": "minilm", "owner": "me"},
    )
    assert client.collection_exists("docs") and not client.collection_exists("other")
    info = client.get_collection("docs")
    assert info.status == models.CollectionStatus.GREEN and info.points_count == 0
    assert info.config.params.vectors == models.VectorParams(size=384, distance=COSINE)
    assert info.config.metadata == {"model": "minilm", "owner": "me"}
    assert client.update_collection("docs", metadata={"owner": "you"})
    assert client.get_collection("docs").config.metadata == {"model": "minilm", "owner": "you"}
    assert client.create_payload_index("docs", "topic", models.PayloadSchemaType.KEYWORD)
    refused(409, lambda: client.create_collection("docs", vectors), "docs")
    refused(404, lambda: client.get_collection("other"), "other")
    assert client.delete_collection("docs") and not client.collection_exists("docs")
    assert client.get_collections().collections == []


def test_what_is_not_supported_is_refused_at_creation(client):
    def create(vectors, **more):
        return lambda: client.create_collection("docs", vectors, **more)

    def params(distance=COSINE, size=384, **more):
        return models.VectorParams(size=size, distance=distance, **more)

    refused(400, create(params(models.Distance.EUCLID)), "Cosine")
    refused(400, create({"a": params(), "b": params()}), "2 vectors")
    sparse = {"words": models.SparseVectorParams()}
    refused(400, create(params(), sparse_vectors_config=sparse), "hybrid")
    refused(400, create(params(size=3), metadata={"model": "minilm"}), "384", "size 3", "dimensions")
    refused(404, create(params(), metadata={"model": "none"}), "none")
    refused(400, create(params(), metadata={"model": "rerank"}), "rerank", "does not embed")
    assert not client.collection_exists("docs")


@pytest.mark.parametrize("query", QUERIES)
def test_a_text_finds_what_an_exact_search_finds(search_server, filled, query):
    expected = nearest(search_server, "minilm", query)
    same(pairs(filled.query_points("docs", text(query), limit=5)), expected)
    everything = pairs(filled.query_points("docs", text(query), limit=5, offset=3))
    same([*zip(expected[0][:3], expected[1][:3]), *everything], expected)
    threshold = (expected[1][2] + expected[1][3]) / 2
    assert len(filled.query_points("docs", text(query), score_threshold=threshold).points) == 3


def test_vectors_that_the_server_made_are_accepted(search_server, filled):
    vector = search_server.embed("minilm", [QUERIES[0]])[0].tolist()
    expected = nearest(search_server, "minilm", QUERIES[0])
    same(pairs(filled.query_points("docs", vector)), expected)
    by_id = pairs(filled.query_points("docs", 3, limit=3))
    order, cosines = nearest(search_server, "minilm", TEXTS[3])
    same(by_id, (order[1:], cosines[1:]))
    unknown = np.random.default_rng(1).normal(size=384).tolist()
    refused(409, lambda: filled.query_points("docs", unknown), "send the text", "x-model-version")
    version = requests.post(
        f"{search_server.url}/v1/embeddings", json={"model": "minilm", "input": "x"}, timeout=60
    ).headers["x-model-version"]
    # The client vouches for the version.
    vouching = connect(search_server, headers={"x-model-version": version})
    assert len(vouching.query_points("docs", unknown).points) == 10
    vouching.close()
    stale = connect(search_server, headers={"x-model-version": "0" * 64})
    refused(409, lambda: stale.query_points("docs", vector), "0" * 64, version)
    stale.close()


def test_batches_and_groups(search_server, filled):
    requests_ = [
        models.QueryRequest(query=text(query), limit=3, with_payload=True) for query in QUERIES
    ]
    for query, answer in zip(QUERIES, filled.query_batch_points("docs", requests_)):
        same(pairs(answer), nearest(search_server, "minilm", query))
        assert all(point.payload["text"] == TEXTS[point.id] for point in answer.points)
    groups = filled.query_points_groups(
        "docs", group_by="topic", query=text(QUERIES[0]), limit=3, group_size=2, with_payload=True
    ).groups
    order, _ = nearest(search_server, "minilm", QUERIES[0])
    expected = {}
    for index in order:
        expected.setdefault(TOPICS[index], []).append(index)
    expected = [(topic, indexes[:2]) for topic, indexes in list(expected.items())[:3]]
    assert [(group.id, [hit.id for hit in group.hits]) for group in groups] == expected


def condition(key, **of):
    return models.FieldCondition(key=key, **of)


FILTERS = [
    (models.Filter(must=[condition("topic", match=models.MatchValue(value="city"))]), {0, 1, 2}),
    (
        models.Filter(must=[condition("topic", match=models.MatchAny(any=["city", "food"]))]),
        {0, 1, 2, 7, 8},
    ),
    (
        models.Filter(
            must=[condition("topic", match=models.MatchExcept(**{"except": ["city", "food"]}))]
        ),
        {3, 4, 5, 6, 9},
    ),
    (models.Filter(must_not=[condition("year", range=models.Range(gte=2013))]), {0, 1, 2}),
    (
        models.Filter(
            should=[
                condition("more.tags[]", match=models.MatchValue(value="weather")),
                models.HasIdCondition(has_id=[4]),
            ]
        ),
        {4, 9},
    ),
    (
        models.Filter(
            must=[
                condition("more.even", match=models.MatchValue(value=True)),
                models.Filter(should=[condition("year", range=models.Range(lt=2012, gt=2009))]),
            ]
        ),
        {0},
    ),
    (models.Filter(must=[condition("text", match=models.MatchText(text="london"))]), {0, 2}),
    (models.Filter(must=[models.IsEmptyCondition(is_empty={"key": "none"})]), set(range(10))),
    (models.Filter(must=[models.IsNullCondition(is_null={"key": "topic"})]), set()),
    (
        models.Filter(
            min_should=models.MinShould(
                conditions=[
                    condition("topic", match=models.MatchValue(value="city")),
                    condition("year", range=models.Range(lte=2011)),
                    condition("more.even", match=models.MatchValue(value=False)),
                ],
                min_count=3,
            )
        ),
        {1},
    ),
]


@pytest.mark.parametrize("given,expected", FILTERS)
def test_filters(search_server, filled, given, expected):
    found = filled.query_points("docs", text(QUERIES[1]), query_filter=given)
    same(pairs(found), nearest(search_server, "minilm", QUERIES[1], expected))
    assert len(found.points) == len(expected)
    assert filled.count("docs", given).count == len(expected)
    assert {point.id for point in filled.scroll("docs", given, limit=100)[0]} == expected


def test_unsupported_filters_are_refused(filled):
    for wrong in (
        condition("topic", geo_radius=models.GeoRadius(center={"lon": 1, "lat": 1}, radius=1)),
        condition("topic", values_count=models.ValuesCount(gt=1)),
        condition("year", range=models.DatetimeRange(gt="2024-01-01T00:00:00Z")),
    ):
        given = models.Filter(must=[wrong])
        refused(400, lambda: filled.query_points("docs", text("x"), query_filter=given))
        refused(400, lambda: filled.count("docs", given))


def test_points_are_read_changed_and_deleted(search_server, filled):
    one = filled.retrieve("docs", [2, 77], with_vectors=True)
    assert [record.id for record in one] == [2]
    assert filled.query_points("docs", one[0].vector, limit=1).points[0].id == 2
    row = search_server.embed("minilm", [TEXTS[2]])[0]
    np.testing.assert_allclose(one[0].vector, row / np.linalg.norm(row), atol=1e-5)
    some = filled.retrieve("docs", [2], with_payload=["topic", "more.even"])
    assert some[0].payload == {"topic": "city", "more": {"even": True}}
    filled.set_payload("docs", {"topic": "river"}, points=[2])
    refused(400, lambda: filled.set_payload("docs", {"text": "new"}, points=[2]), "`text`", "upsert")
    filled.overwrite_payload("docs", {"only": 1}, points=[3])
    filled.delete_payload("docs", ["year"], points=models.Filter(must=[models.HasIdCondition(has_id=[4])]))
    filled.clear_payload("docs", points_selector=[5])
    records = {record.id: record.payload for record in filled.scroll("docs", limit=100)[0]}
    assert records[2]["topic"] == "river" and records[2]["year"] == YEARS[2]
    assert records[3] == {"only": 1} and records[5] == {} and "year" not in records[4]
    first, following = filled.scroll("docs", limit=6)
    second, end = filled.scroll("docs", limit=6, offset=following)
    assert [record.id for record in [*first, *second]] == list(range(10)) and end is None
    filled.delete("docs", points_selector=[0, 1])
    topic = condition("topic", match=models.MatchValue(value="food"))
    filled.delete("docs", points_selector=models.FilterSelector(filter=models.Filter(must=[topic])))
    assert filled.count("docs").count == 6
    operations = [
        models.UpsertOperation(upsert=models.PointsList(points=[next(points())])),
        models.SetPayloadOperation(set_payload=models.SetPayload(payload={"a": 1}, points=[0])),
        models.DeleteOperation(delete=models.PointIdsList(points=[9])),
    ]
    assert len(filled.batch_update_points("docs", operations)) == 3
    assert filled.retrieve("docs", [0])[0].payload["a"] == 1
    assert filled.count("docs").count == 6
    refused(404, lambda: filled.count("other"), "other")


def test_named_vectors_batches_and_uuids(search_server, client):
    vectors = {"dense": models.VectorParams(size=384, distance=models.Distance.DOT)}
    client.create_collection("named", vectors)
    ids = [str(uuid.uuid4()) for _ in TEXTS]
    rows = search_server.embed("minilm", TEXTS)
    payloads = [{"text": content} for content in TEXTS]
    batch = models.Batch(ids=ids, vectors={"dense": rows.tolist()}, payloads=payloads)
    # Two embedders are served: the vectors say which one made them.
    client.upsert("named", batch)
    info = client.get_collection("named").config
    assert info.metadata["model"] == "minilm"
    assert info.params.vectors == {"dense": vectors["dense"]}
    found = client.query_points("named", text(QUERIES[2]), using="dense", limit=4, with_vectors=True)
    same(
        [(ids.index(point.id), point.score) for point in found.points],
        nearest(search_server, "minilm", QUERIES[2]),
    )
    best = found.points[0]
    np.testing.assert_allclose(best.vector["dense"], rows[ids.index(best.id)], atol=1e-5)
    refused(400, lambda: client.query_points("named", text("x"), using="other"), "dense")
    other = [models.PointStruct(id=1, vector={"dense": text("x", "tiny")})]
    refused(400, lambda: client.upsert("named", other), "minilm", "tiny")
    refused(400, lambda: client.query_points("named", text("x", "tiny"), using="dense"), "minilm")
    unknown = [models.PointStruct(id=1, vector={"dense": [0.5] * 384}, payload={"text": "x"})]
    refused(409, lambda: client.upsert("named", unknown), "x-model-version")
    without = [models.PointStruct(id=1, vector={"dense": rows[0].tolist()}, payload={"x": "y"})]
    refused(400, lambda: client.upsert("named", without), "text")
    assert client.count("named").count == len(TEXTS)


def test_words_and_meaning_are_combined_and_reranked(search_server, filled):
    query = "yeast"
    fused = filled.query_points(
        "docs",
        models.FusionQuery(fusion=models.Fusion.RRF),
        prefetch=[
            models.Prefetch(query=text(query)),
            models.Prefetch(query=text(query, "Qdrant/bm25"), using="words"),
        ],
    )
    order, _ = nearest(search_server, "minilm", query)
    scores = {index: 1 / (61 + rank) for rank, index in enumerate(order)}
    scores[7] += 1 / 61
    same(pairs(fused), ([7, *(i for i in order if i != 7)], sorted(scores.values(), reverse=True)))

    def ask(**more):
        url = f"{search_server.url}/collections/docs/points/query"
        answer = requests.post(url, json={"query": {"text": query}, **more}, timeout=60)
        assert answer.status_code == 200, answer.text
        return answer, answer.json()["result"]["points"]

    answer, hybrid = ask(hybrid=True)
    assert [(point["id"], point["score"]) for point in hybrid] == pairs(fused)
    assert {"embed", "search"} <= {part.split(";")[0].strip() for part in answer.headers["server-timing"].split(",")}
    assert answer.headers["x-model-name"] == "minilm"
    _, reranked = ask(rerank={"model": "rerank", "candidates": 10}, limit=10)
    ranked = requests.post(
        f"{search_server.url}/rerank",
        json={"model": "rerank", "query": query, "texts": TEXTS, "raw_scores": True},
        timeout=60,
    ).json()
    assert [point["id"] for point in reranked] == [item["index"] for item in ranked]
    refused(400, lambda: filled.query_points("docs", models.RecommendQuery(recommend=models.RecommendInput(positive=[1]))), "recommend")


def test_diverse_points_are_chosen_among_the_nearest(search_server, filled):
    rows = search_server.embed("minilm", [*TEXTS, QUERIES[0]]).astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    left, chosen = list(np.argsort(-(rows[:-1] @ rows[-1]))[:6]), []
    while len(chosen) < 4:
        likeness = [max((rows[i] @ rows[j] for j in chosen), default=0) for i in left]
        values = [0.4 * rows[i] @ rows[-1] - 0.6 * like for i, like in zip(left, likeness)]
        chosen.append(left.pop(int(np.argmax(values))))
    mmr = models.Mmr(diversity=0.6, candidates_limit=6)
    query = models.NearestQuery(nearest=text(QUERIES[0]), mmr=mmr)
    assert [i for i, _ in pairs(filled.query_points("docs", query, limit=4))] == chosen


def test_aliases(filled):
    create = models.CreateAliasOperation(
        create_alias=models.CreateAlias(collection_name="docs", alias_name="current")
    )
    assert filled.update_collection_aliases([create])
    assert [a.alias_name for a in filled.get_collection_aliases("docs").aliases] == ["current"]
    assert filled.count("current").count == len(TEXTS)
    rename = models.RenameAliasOperation(
        rename_alias=models.RenameAlias(old_alias_name="current", new_alias_name="latest")
    )
    assert filled.update_collection_aliases([rename])
    assert [(a.alias_name, a.collection_name) for a in filled.get_aliases().aliases] == [("latest", "docs")]
    refused(404, lambda: filled.update_collection_aliases([rename]), "current")
    delete = models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name="latest"))
    assert filled.update_collection_aliases([delete])
    refused(404, lambda: filled.count("latest"), "latest")


def test_asynchronously(search_server, filled):
    async def ask():
        client = AsyncQdrantClient(url=search_server.url, cloud_inference=True)
        answers = [client.query_points("docs", text(query)) for query in QUERIES]
        answers = await asyncio.gather(*answers)
        await client.close()
        return answers

    for query, answer in zip(QUERIES, asyncio.run(ask())):
        same(pairs(answer), nearest(search_server, "minilm", query))


def test_an_update_keeps_texts_right_and_refuses_old_vectors(updatable_server):
    server = updatable_server
    client = connect(server)
    old = server.embed("m", [QUERIES[0]])[0].tolist()
    client.create_collection("docs", models.VectorParams(size=len(old), distance=COSINE))
    client.upsert("docs", list(points("m")))
    before = nearest(server, "m", QUERIES[0])
    same(pairs(client.query_points("docs", text(QUERIES[0], "m"))), before)
    same(pairs(client.query_points("docs", old)), before)
    server.update("m", MODELS / "tiny/b")
    after = nearest(server, "m", QUERIES[0])
    assert not np.allclose(sorted(before[1]), sorted(after[1]), atol=1e-3), "the spaces differ"
    same(pairs(client.query_points("docs", text(QUERIES[0], "m"))), after)
    refused(409, lambda: client.query_points("docs", old), "embed the text again", "now serves")
    stale = [models.PointStruct(id=99, vector=old, payload={"text": QUERIES[0]})]
    refused(409, lambda: client.upsert("docs", stale), "embed the text again")
    new = server.embed("m", [QUERIES[0]])[0].tolist()
    same(pairs(client.query_points("docs", new)), after)
    info = client.get_collection("docs")
    assert info.indexed_vectors_count == info.points_count == len(TEXTS)
    client.close()
