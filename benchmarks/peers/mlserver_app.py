"""The model behind MLServer as a custom runtime, in the Open Inference Protocol v2, which it speaks.

`documented` is what MLServer's own pages tell one to write and to start: the request decoded by its pandas codec, the
model in a worker process of its own. `quick` spares every request both: the lists of the request are read by hand, in
the process of the HTTP server (`parallel_workers=0`).
It takes rows as one input a column; the quick one also as two tensors that are encoded already.
"""

import asyncio
import json
import sys

import numpy as np
import torch
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import PandasCodec
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput

from benchmarks.peers.plain_model import load_plain_model


class QuickRuntime(MLModel):  # type: ignore[misc]
    async def load(self) -> bool:
        self.model = load_plain_model(self.settings.parameters.uri)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        inputs = {part.name: part for part in payload.inputs}
        if "numeric" in inputs:
            numeric = torch.tensor(inputs["numeric"].data.root).reshape(inputs["numeric"].shape)
            categorical = torch.tensor(inputs["categorical"].data.root).reshape(inputs["categorical"].shape)
            scores = self.model.scores(numeric, categorical)
        else:
            columns = {name: part.data.root for name, part in inputs.items()}
            scores = self.model.scores(*self.model.encode_columns(columns))
        return self.answer(scores)

    def answer(self, scores: list[float]) -> InferenceResponse:
        output = ResponseOutput(name="score", shape=[len(scores)], datatype="FP64", data=scores)
        return InferenceResponse(model_name=self.name, outputs=[output])


class DocumentedRuntime(QuickRuntime):
    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        frame = self.decode_request(payload, default_codec=PandasCodec)
        numeric = torch.from_numpy(frame[self.model.numeric].to_numpy(dtype=np.float32))
        _, categorical = self.model.encode_columns({name: frame[name].tolist() for name in frame.columns})
        return self.answer(self.model.scores(numeric, categorical))


async def serve(bundle_dir: str, port: int, grpc_port: int, *, is_documented: bool) -> None:
    spared = {"parallel_workers": 0, "gzip_enabled": False}
    settings = Settings(
        host="127.0.0.1",
        http_port=port,
        grpc_port=grpc_port,
        metrics_endpoint=None,
        debug=False,
        load_models_at_startup=False,
        **({} if is_documented else spared),
    )
    runtime = DocumentedRuntime if is_documented else QuickRuntime
    model = ModelSettings(
        name="example",
        implementation=f"benchmarks.peers.mlserver_app.{runtime.__name__}",
        parameters={"uri": bundle_dir},
    )
    await MLServer(settings).start([model])


if __name__ == "__main__":
    asyncio.run(serve(**json.loads(sys.argv[1])))
