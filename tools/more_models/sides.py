"""Sparse models, models with a route for each side of a search, and static tables."""

from pathlib import Path

import numpy
import sentence_transformers.models as modules
import torch
import transformers
from sentence_transformers import SentenceTransformer

from shared import (
    MODELS,
    SCRATCH,
    bert,
    dense,
    embedding,
    export,
    finish,
    maker,
    mean,
    model,
    pooling,
    rows,
    save,
    sentence,
    sparse_rows,
    texts,
    tokenizer,
)


@maker
def splade_sum(folder):
    from sentence_transformers import SparseEncoder
    from sentence_transformers.sparse_encoder.models import MLMTransformer, SpladePooling

    tok = transformers.DistilBertTokenizerFast.from_pretrained(MODELS / "splade")
    base = model(
        "DistilBertForMaskedLM", tok, "distilbert", dim=32, hidden_dim=48, n_heads=4, n_layers=2
    )
    with torch.no_grad():
        base.vocab_projector.bias -= 1.5
    source = save(base, tok, SCRATCH)
    encoder = SparseEncoder(
        modules=[
            MLMTransformer(source),
            SpladePooling(pooling_strategy="sum", activation_function="log1p_relu"),
        ],
        device="cpu",
    ).eval()
    encoder.save(str(folder))
    export(folder, "fill-mask", library_name="transformers")
    finish(
        folder,
        {
            "task": "sparse",
            "texts": texts(),
            "sparse": sparse_rows(encoder.encode(texts())),
            "dimensions": len(tok),
        },
    )


@maker
def router_sparse(folder):
    """Inference-free sparse search: token weights for queries, SPLADE for documents."""
    from sentence_transformers import SparseEncoder
    from sentence_transformers.models import Router
    from sentence_transformers.sparse_encoder.models import (
        MLMTransformer,
        SparseStaticEmbedding,
        SpladePooling,
    )

    tok = tokenizer("splade")
    base = model("BertForMaskedLM", tok, "bert")
    with torch.no_grad():
        base.cls.predictions.bias -= 1.5
    source = save(base, tok, SCRATCH)
    weight = torch.rand(len(tok)) * 3
    weight[tok.all_special_ids] = 0
    router = Router.for_query_document(
        query_modules=[SparseStaticEmbedding(tokenizer=tok, weight=weight, frozen=True)],
        document_modules=[MLMTransformer(source), SpladePooling("max")],
    )
    encoder = SparseEncoder(modules=[router], device="cpu").eval()
    encoder.save(str(folder))
    inner = next(path for path in Path(folder).iterdir() if path.name.startswith("document_0"))
    export(inner, "fill-mask", library_name="transformers")
    (inner / "model.safetensors").unlink()
    document, query = sparse_rows(encoder.encode_document(texts())), sparse_rows(
        encoder.encode_query(texts())
    )
    finish(
        folder,
        {
            "task": "sparse",
            "texts": texts(),
            "sparse": document,
            "sparse_by_prompt": {"query": query, "document": document},
            "dimensions": len(tok),
        },
    )


@maker
def router_dense(folder):
    """One transformer with a Dense for each side of a search."""
    from sentence_transformers.models import Router

    tok, base = bert()
    router = Router.for_query_document(
        query_modules=[dense(32, 24, torch.nn.Identity()), modules.Normalize()],
        document_modules=[dense(32, 24, torch.nn.Tanh()), modules.Normalize()],
    )
    st = sentence(folder, tok, base, pooling("mean"), router)
    query, document = st.encode_query(texts()), st.encode_document(texts())
    alone = [st.encode_document([text])[0] for text in texts()]
    finish(
        folder,
        {
            "task": "embedding",
            "texts": texts(),
            "embeddings": rows(document),
            "embeddings_alone": rows(alone),
            "normalized": True,
            "dimensions": 24,
            "embeddings_by_prompt": {"query": rows(query), "document": rows(document)},
            "default_route": router.default_route if hasattr(router, "default_route") else None,
        },
    )


@maker
def router_static(folder):
    """A static table for queries, a transformer for documents."""
    from sentence_transformers.models import Router, StaticEmbedding

    tok, base = bert()
    source = save(base, tok, SCRATCH)
    table = StaticEmbedding(tok.backend_tokenizer, embedding_dim=32)
    with torch.no_grad():
        table.embedding.weight.normal_(0, 1)
    router = Router.for_query_document(
        query_modules=[table, modules.Normalize()],
        document_modules=[modules.Transformer(source), pooling("mean"), modules.Normalize()],
    )
    st = SentenceTransformer(modules=[router], device="cpu").eval()
    st.save(str(folder))
    inner = next(path for path in Path(folder).iterdir() if path.name.startswith("document_0"))
    export(inner, "feature-extraction", library_name="transformers")
    (inner / "model.safetensors").unlink()
    query, document = st.encode_query(texts()), st.encode_document(texts())
    alone = [st.encode_document([text])[0] for text in texts()]
    finish(
        folder,
        {
            "task": "embedding",
            "texts": texts(),
            "embeddings": rows(document),
            "embeddings_alone": rows(alone),
            "normalized": True,
            "dimensions": 32,
            "embeddings_by_prompt": {"query": rows(query), "document": rows(document)},
        },
    )


@maker
def model2vec_mapped(folder):
    """model2vec with a reduced table, a mapping from tokens to its rows, and weights."""
    from model2vec import StaticModel

    tok = tokenizer("pooling-max").backend_tokenizer
    size, generator = tok.get_vocab_size(), numpy.random.default_rng(7)
    table = generator.normal(size=(100, 32)).astype(numpy.float16)
    mapping = generator.integers(0, 100, size=size).astype(numpy.int64)
    weights = generator.uniform(0.1, 2, size=size).astype(numpy.float64)
    static = StaticModel(
        table,
        tok,
        config={
            "model_type": "model2vec",
            "architectures": ["StaticModel"],
            "normalize": True,
            "max_length": 512,
        },
        weights=weights,
        token_mapping=mapping,
    )
    static.save_pretrained(folder)
    alone = [static.encode([text])[0] for text in texts()]
    finish(
        folder,
        {
            "task": "embedding",
            "texts": texts(),
            "embeddings": rows(static.encode(texts())),
            "embeddings_alone": rows(alone),
            "normalized": True,
            "dimensions": 32,
            "tolerance": 0.002,
        },
        keep=("model.safetensors",),
    )
