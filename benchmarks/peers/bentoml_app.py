"""The model behind BentoML, as its documentation shows it. One worker, no access log, no metrics, no tracing."""

import os
from typing import Any

import bentoml

from benchmarks.peers.plain_model import load_plain_model


@bentoml.service(
    workers=1,
    traffic={"timeout": 30, "max_concurrency": 64},
    logging={"access": {"enabled": False}},
    metrics={"enabled": False},
)
class Predictor:
    def __init__(self) -> None:
        self.model = load_plain_model(os.environ["BUNDLE_DIR"])

    @bentoml.api  # type: ignore[untyped-decorator]
    async def predict(self, instances: list[dict[str, Any]]) -> dict[str, Any]:
        # On the event loop: a thread for each call, its default, costs more than the model.
        return self.model.answer(instances)
