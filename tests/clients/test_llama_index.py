"""llama-index: its embedder and reranker for text-embeddings-inference."""

import asyncio

import numpy as np
import pytest
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.embeddings.text_embeddings_inference import TextEmbeddingsInference
from llama_index.postprocessor.tei_rerank import TextEmbeddingInference

from reference import close, close_golden, golden, rerank_case


@pytest.fixture
def embedder(server):
    return TextEmbeddingsInference(model_name="minilm", base_url=server.url, embed_batch_size=8)


def usable():
    """Returns texts that llama-index does not alter. It strips texts and omits empty ones."""
    texts, expected = golden()
    chosen = [index for index, text in enumerate(texts) if text and text == text.strip()]
    return [texts[index] for index in chosen], expected[chosen]


def test_queries_and_texts(embedder):
    texts, expected = usable()
    close_golden(embedder.get_query_embedding(texts[0]), expected[0])
    close_golden(embedder.get_text_embedding(texts[1]), expected[1])
    close_golden(embedder.get_text_embedding_batch(texts), expected)


def test_asynchronously(embedder):
    texts, expected = usable()

    async def calls():
        one = await embedder.aget_query_embedding(texts[0])
        return one, await embedder.aget_text_embedding_batch(texts)

    query, documents = asyncio.run(calls())
    close_golden(query, expected[0])
    close_golden(documents, expected)


def test_reranking_of_nodes(rerank_server):
    query, texts, scores = rerank_case()
    reranker = TextEmbeddingInference(base_url=rerank_server.url, top_n=3)
    nodes = [NodeWithScore(node=TextNode(text=text), score=0.5) for text in texts]
    ranked = reranker.postprocess_nodes(nodes, query_str=query)
    order = list(np.argsort(-scores))[:3]
    assert [node.node.text for node in ranked] == [texts[index] for index in order]
    close([node.score for node in ranked], scores[order])
