"""An embedding service as it is usually written, to compare with onnxd: loads a model with ONNX Runtime when it
starts, and serves it with FastAPI and uvicorn. To serve another model, it is stopped and started again.

Usage: service.py MODEL_DIR PORT
"""

import sys
from pathlib import Path

import numpy
import onnxruntime
import uvicorn
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from tokenizers import Tokenizer

directory, port = Path(sys.argv[1]), int(sys.argv[2])
tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
tokenizer.enable_truncation(256)
tokenizer.enable_padding()
session = onnxruntime.InferenceSession(directory / "model.onnx")
app = FastAPI()


class Texts(BaseModel):
    inputs: list[str] | str


# Not async: FastAPI runs it on a pool of threads, so that inference blocks no other request.
@app.post("/embed")
def embed(texts: Texts) -> JSONResponse:
    inputs = [texts.inputs] if isinstance(texts.inputs, str) else texts.inputs
    encoded = tokenizer.encode_batch(inputs)
    mask = numpy.array([encoding.attention_mask for encoding in encoded])
    ids = numpy.array([encoding.ids for encoding in encoded])
    types = numpy.array([encoding.type_ids for encoding in encoded])
    (hidden,) = session.run(None, {"input_ids": ids, "attention_mask": mask, "token_type_ids": types})
    sums = (hidden * mask[..., None]).sum(axis=1)
    vectors = sums / numpy.linalg.norm(sums, axis=1, keepdims=True)
    return JSONResponse(vectors.tolist())


uvicorn.run(app, host="127.0.0.1", port=port, access_log=False, log_level="warning")
