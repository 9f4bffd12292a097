"""The model behind LitServe, as its documentation shows it. One worker; its ZeroMQ queue was no faster here."""

import json
import sys
from typing import Any

import litserve

from benchmarks.peers.plain_model import load_plain_model


class Predict(litserve.LitAPI):  # type: ignore[misc]
    def __init__(self, bundle_dir: str) -> None:
        super().__init__(api_path="/predict")
        self.bundle_dir = bundle_dir

    def setup(self, device: str) -> None:
        self.model = load_plain_model(self.bundle_dir)

    def decode_request(self, request: dict[str, Any]) -> Any:
        return request["instances"]

    def predict(self, rows: Any) -> dict[str, Any]:
        return self.model.answer(rows)

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        return output


if __name__ == "__main__":
    arguments = json.loads(sys.argv[1])
    server = litserve.LitServer(Predict(arguments["bundle_dir"]), accelerator="cpu", workers_per_device=1)
    server.run(
        host="127.0.0.1", port=arguments["port"], generate_client_file=False, log_level="warning", access_log=False
    )
