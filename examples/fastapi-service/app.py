"""Semantic search over HTTP. One call of onnxd embeds the query and finds the documents.

Usage: uvicorn app:app --port 8000
"""

import os
from contextlib import asynccontextmanager
from typing import Annotated

import httpx
from fastapi import FastAPI, HTTPException, Query, Request, Response

ONNXD = os.environ.get("ONNXD_URL", "http://127.0.0.1:8080")
COLLECTION = os.environ.get("COLLECTION", "docs")
# What a caller needs to know about the model and the time that its request took.
PASSED_ON = ("server-timing", "x-model-generation", "x-model-version", "retry-after")


@asynccontextmanager
async def lifespan(app):
    async with httpx.AsyncClient(base_url=ONNXD, timeout=30) as client:
        app.state.onnxd = client
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/search")
async def search(
    request: Request,
    response: Response,
    q: Annotated[str, Query(min_length=1, description="What to look for")],
    limit: Annotated[int, Query(ge=1, le=100)] = 10,
):
    body = {"collection": COLLECTION, "query": q, "limit": limit}
    try:
        found = await request.app.state.onnxd.post("/search", json=body)
    except httpx.TransportError as error:
        raise HTTPException(503, f"onnxd at {ONNXD} does not answer: {error}") from error
    headers = {name: found.headers[name] for name in PASSED_ON if name in found.headers}
    if found.is_error:
        raise HTTPException(found.status_code, found.json()["error"], headers)
    response.headers.update(headers)
    return found.json()["hits"]
