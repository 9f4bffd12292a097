"""The model behind MLServer as a custom runtime, in the Open Inference Protocol v2, which it speaks.

Served in the process of the HTTP server (`parallel_workers=0`), which spares every request the way to another process;
MLServer's own worker processes do not start with the uvloop that is pinned here.
It takes rows as one input a column, or already encoded as two tensors.
"""

import asyncio
import json
import sys

import torch
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput

from benchmarks.peers.plain_model import load_plain_model


class PlainRuntime(MLModel):  # type: ignore[misc]
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
        output = ResponseOutput(name="score", shape=[len(scores)], datatype="FP64", data=scores)
        return InferenceResponse(model_name=self.name, outputs=[output])


async def serve(bundle_dir: str, port: int, grpc_port: int) -> None:
    settings = Settings(
        host="127.0.0.1",
        http_port=port,
        grpc_port=grpc_port,
        parallel_workers=0,
        metrics_endpoint=None,
        gzip_enabled=False,
        debug=False,
        load_models_at_startup=False,
    )
    model = ModelSettings(
        name="example",
        implementation="benchmarks.peers.mlserver_app.PlainRuntime",
        parameters={"uri": bundle_dir},
    )
    await MLServer(settings).start([model])


if __name__ == "__main__":
    asyncio.run(serve(**json.loads(sys.argv[1])))
