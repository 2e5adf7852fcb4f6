"""A semantic search as it is usually built, to compare with onnxd: FastAPI and uvicorn, ONNX Runtime for the
embeddings, and a database with an HNSW index for the vectors.

Usage: service.py MODEL_DIR PORT pgvector|chroma
"""

import json
import sys
import threading
import time
from contextlib import asynccontextmanager
from pathlib import Path

import numpy
import onnxruntime
import stores
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from tokenizers import Tokenizer

directory, port, kind = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
tokenizer.enable_truncation(256)
tokenizer.enable_padding()
session = onnxruntime.InferenceSession(directory / "model.onnx")
store = {"pgvector": stores.Pgvector, "chroma": stores.Chroma}[kind]()


def embed(texts: list[str]) -> numpy.ndarray:
    """Returns the mean of each text's token embeddings, with length 1."""
    encoded = tokenizer.encode_batch(texts)
    mask = numpy.array([encoding.attention_mask for encoding in encoded])
    ids = numpy.array([encoding.ids for encoding in encoded])
    types = numpy.array([encoding.type_ids for encoding in encoded])
    (hidden,) = session.run(None, {"input_ids": ids, "attention_mask": mask, "token_type_ids": types})
    sums = (hidden * mask[..., None]).sum(axis=1)
    return (sums / numpy.linalg.norm(sums, axis=1, keepdims=True)).astype(numpy.float32)


class Document(BaseModel):
    id: int
    text: str
    payload: dict


class Query(BaseModel):
    query: str
    limit: int = 10


class Files(BaseModel):
    documents: Path
    vectors: Path


@asynccontextmanager
async def lifespan(_):
    yield
    store.close()


app = FastAPI(lifespan=lifespan)


# None is async: FastAPI runs them on a pool of threads, so that inference blocks no other request.
@app.post("/documents")
def add(documents: list[Document]):
    vectors = embed([document.text for document in documents])
    store.add([(document.id, document.text, document.payload) for document in documents], vectors)
    return {"documents": len(documents)}


@app.post("/search")
def search(query: Query):
    return {"hits": store.search(embed([query.query])[0], query.limit)}


loading = {"seconds": None, "error": None}


def replace(files: Files):
    start = time.monotonic()
    try:
        with files.documents.open() as lines:
            parsed = (json.loads(line) for line in lines)
            documents = [(line["id"], line["text"], line["payload"]) for line in parsed]
        store.load(documents, numpy.fromfile(files.vectors, numpy.float32).reshape(len(documents), -1))
        loading["seconds"] = time.monotonic() - start
    except Exception as error:
        loading["error"] = repr(error)


@app.post("/load")
def load(files: Files):
    """Replaces all documents by those of two files, without embedding: prepares a measurement."""
    threading.Thread(target=replace, args=[files], daemon=True).start()
    return loading


@app.get("/loading")
def progress():
    return loading


uvicorn.run(app, host="127.0.0.1", port=port, access_log=False, log_level="warning")
