"""The ways to serve that teal is measured against, each with the same model, the same contract check and the same row.

They do what the documentation of Serve, of FastAPI and of uvicorn shows; none of them logs rows or counts drift.
"""

import json
import sys
from pathlib import Path
from typing import Any

import orjson
from ray import serve
from starlette.requests import Request

from runtime.models.bundle import Bundle, load_bundle, manifest_sha256


class Predictor:
    """Request body to answer, without any server."""

    def __init__(self, bundle_dir: str) -> None:
        import torch

        torch.set_num_threads(1)
        path = Path(bundle_dir)
        self._bundle: Bundle = load_bundle(path, expected_sha256=manifest_sha256(path))

    def scores(self, document: Any) -> list[float]:
        encoded = self._bundle.encoding.encode_rows(document["instances"], self._bundle.columns)
        scores: list[float] = self._bundle.model.predict(encoded.numeric, encoded.categorical).tolist()
        return scores

    def answer(self, document: Any) -> dict[str, Any]:
        return {"predictions": [{"score": score} for score in self.scores(document)]}


@serve.ingress()
class BareReplica:
    """(a) One application behind Ray's HAProxy: bare ASGI and orjson, the fastest that Serve offers."""

    def __init__(self, bundle_dir: str) -> None:
        self._predictor = Predictor(bundle_dir)

    def __serve_build_asgi_app__(self) -> Any:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await self._answer(scope, receive, send)

        return app

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while (message := await receive())["type"] != "lifespan.shutdown":
                await send({"type": f"{message['type']}.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        content = orjson.dumps(self._predictor.answer(orjson.loads(body)))
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})


def build_bare(arguments: dict[str, Any]) -> Any:
    options: Any = serve.deployment(
        BareReplica,
        max_ongoing_requests=64,
        ray_actor_options={"num_cpus": 0.1},
        logging_config={"enable_access_log": False},
    )
    return options.bind(arguments["bundle_dir"])


class Slot:
    """(b) One slot behind a gateway, reached by a DeploymentHandle."""

    def __init__(self, bundle_dir: str) -> None:
        self._predictor = Predictor(bundle_dir)

    async def __call__(self, document: Any) -> dict[str, Any]:
        return self._predictor.answer(document)


class Gateway:
    """(b) The documented way to split traffic in Serve: a deployment that calls one of two handles."""

    def __init__(self, blue: Any, green: Any) -> None:
        self._blue = blue
        self._green = green
        self._num_requests = 0

    async def __call__(self, request: Request) -> Any:
        document = await request.json()
        self._num_requests += 1
        handle = self._green if self._num_requests % 10 == 0 else self._blue
        return await handle.remote(document)


def build_gateway(arguments: dict[str, Any]) -> Any:
    """As Serve comes, but for room for 64 requests at once (its 5 would be the limit); tuned: without access log."""
    is_tuned = arguments.get("is_tuned", False)

    def options(deployment: Any, name: str) -> Any:
        return serve.deployment(
            deployment,
            name=name,
            max_ongoing_requests=64,
            ray_actor_options={"num_cpus": 0.1},
            logging_config={"enable_access_log": not is_tuned},
        )

    slots = [options(Slot, name).bind(arguments["bundle_dir"]) for name in ("blue", "green")]
    return options(Gateway, "gateway").bind(*slots)


def run_uvicorn(bundle_dir: str, port: int) -> None:
    """(c) FastAPI on uvicorn, one process: no split, no replica, nothing else."""
    import uvicorn
    from fastapi import FastAPI

    predictor = Predictor(bundle_dir)
    app = FastAPI()

    @app.post("/predict")
    async def predict(request: Request) -> dict[str, Any]:
        return predictor.answer(await request.json())

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False)


def run_gateway(bundle_dir: str, port: int) -> None:
    """(b) in a Ray of its own, with Serve as the environment sets it; serves until its standard input ends."""
    import ray

    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, object_store_memory=256 << 20)
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(build_gateway({"bundle_dir": bundle_dir}), name="gateway", route_prefix="/gateway")
        sys.stdin.read()
    finally:
        ray.shutdown()


if __name__ == "__main__":
    arguments = json.loads(sys.argv[1])
    run = {"uvicorn": run_uvicorn, "gateway": run_gateway}[arguments.pop("peer")]
    run(**arguments)
