"""FastAPI with PyTorch, as most tutorials show it: the network is called in the route."""

from __future__ import annotations

import os
from typing import Any

import uvicorn
from fastapi import FastAPI, Request

from benchmarks.peers.classifier import Classifier

app = FastAPI()
classifier = Classifier()


@app.get("/ready")
async def ready() -> dict[str, bool]:
    return {"ready": True}


@app.post("/predict")
async def predict(request: Request) -> dict[str, Any]:
    image = classifier.tensor(await request.body())
    return {"top": classifier.top(image.unsqueeze(0))[0]}


if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ["PORT"]), access_log=False)
