"""A custom runtime of MLServer, after its documentation: image files in base64, or a UINT8 tensor, by protocol V2.

Its adaptive batching joins the inputs of several requests into one.
"""

from __future__ import annotations

import numpy as np
import torch
from mlserver import MLModel
from mlserver.codecs import Base64Codec, NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse, RequestInput

from benchmarks.peers.classifier import Classifier


class ImageRuntime(MLModel):
    async def load(self) -> bool:
        self.classifier = Classifier()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        images = torch.stack([self.classifier.tensor(data) for data in self._files(payload.inputs[0])])
        rows = self.classifier.top(images)
        columns = {
            "index": np.array([[answer["index"] for answer in row] for row in rows], dtype=np.int64),
            "probability": np.array([[answer["probability"] for answer in row] for row in rows], dtype=np.float32),
        }
        outputs = [NumpyCodec.encode_output(name, values) for name, values in columns.items()]
        return InferenceResponse(model_name=self.name, outputs=outputs)

    def _files(self, given: RequestInput) -> list[bytes]:
        if given.datatype == "BYTES":
            files: list[bytes] = Base64Codec.decode_input(given)
            return files
        return [image.tobytes() for image in NumpyCodec.decode_input(given)]
