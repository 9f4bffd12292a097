"""The peers that have environments of their own, started and stopped for a benchmark: MLServer, LitServe, BentoML.

Each serves the same bundle from plain torch, and is trusted only after its scores are the bundle's own. None splits
traffic, checks a contract, logs a row or counts drift. `make bench-peers` builds their environments.

    python -m benchmarks.peer_serving [NAME ...]     # start each, compare its scores, stop it
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import orjson

from benchmarks.peers.install import PEERS, environment, is_installed
from runtime.core.errors import TealError
from runtime.models.bundle import Bundle, load_bundle

ROOT = Path(__file__).resolve().parents[1]
READY_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 15.0
NOT_YET = (400, 404, 503)
"""What a server answers that is up before its model; MLServer says 400."""
FOREIGN_VARIABLES = ("RAY_", "TEAL_", "BENTOML_", "MLSERVER_", "VIRTUAL_ENV", "PYTHON")
V2_TYPES = {float: "FP64", int: "INT64", str: "BYTES", type(None): "FP64"}

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Peer:
    """A peer that answers. Send `body(rows)` to `url` by POST as application/json."""

    name: str
    url: str
    body: Callable[[Rows], bytes]
    read_scores: Callable[[Any], list[float]]
    """From an answer's JSON."""

    def scores(self, rows: Rows) -> list[float]:
        request = urllib.request.Request(self.url, self.body(rows), {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as response:
            return self.read_scores(json.load(response))


Start = Callable[[Path, Path, Rows], AbstractContextManager[Peer]]
"""Bundle, directory for logs and state, rows to compare scores on."""


@contextlib.contextmanager
def mlserver(
    bundle_dir: Path, directory: Path, rows: Rows, *, is_encoded: bool = True, is_documented: bool = False
) -> Iterator[Peer]:
    """Open Inference Protocol v2 as JSON. Encoded: two tensors, which spares MLServer the work of reading names and
    categories; else one input a column, which is the row as the others get it. Documented: see peers/mlserver_app.py.
    """
    bundle = load_bundle(bundle_dir)
    port, grpc_port = _free_port(), _free_port()
    arguments = {
        "bundle_dir": str(bundle_dir),
        "port": port,
        "grpc_port": grpc_port,
        "is_documented": is_documented,
    }
    peer = Peer(
        name="mlserver",
        url=f"http://127.0.0.1:{port}/v2/models/example/infer",
        body=(lambda rows: _encode_tensors(bundle, rows)) if is_encoded else encode_columns,
        read_scores=lambda answer: list(answer["outputs"][0]["data"]),
    )
    command = ["python", "-m", "benchmarks.peers.mlserver_app", json.dumps(arguments)]
    with _running(peer, bundle, command, directory, rows):
        yield peer


@contextlib.contextmanager
def mlserver_columns(bundle_dir: Path, directory: Path, rows: Rows) -> Iterator[Peer]:
    with mlserver(bundle_dir, directory, rows, is_encoded=False) as peer:
        yield peer


@contextlib.contextmanager
def mlserver_documented(bundle_dir: Path, directory: Path, rows: Rows) -> Iterator[Peer]:
    with mlserver(bundle_dir, directory, rows, is_encoded=False, is_documented=True) as peer:
        yield peer


@contextlib.contextmanager
def litserve(bundle_dir: Path, directory: Path, rows: Rows) -> Iterator[Peer]:
    port = _free_port()
    command = [
        "python",
        "-m",
        "benchmarks.peers.litserve_app",
        json.dumps({"bundle_dir": str(bundle_dir), "port": port}),
    ]
    peer = _named_rows_peer("litserve", port)
    with _running(peer, load_bundle(bundle_dir), command, directory, rows):
        yield peer


@contextlib.contextmanager
def bentoml(bundle_dir: Path, directory: Path, rows: Rows) -> Iterator[Peer]:
    port = _free_port()
    service = "benchmarks.peers.bentoml_app:Predictor"
    command = ["bentoml", "serve", service, "--host", "127.0.0.1", "--port", str(port), "--working-dir", str(ROOT)]
    variables = {
        "BUNDLE_DIR": str(bundle_dir),
        "BENTOML_HOME": str(directory / "bentoml"),
        "BENTOML_DO_NOT_TRACK": "True",
    }
    peer = _named_rows_peer("bentoml", port)
    with _running(peer, load_bundle(bundle_dir), command, directory, rows, **variables):
        yield peer


STARTS: dict[str, Start] = {
    "mlserver": mlserver,
    "mlserver_columns": mlserver_columns,
    "mlserver_documented": mlserver_documented,
    "litserve": litserve,
    "bentoml": bentoml,
}
"""How to start each contestant, by its name in the results."""


def installed_peers() -> list[str]:
    """The names in STARTS whose environment is as pinned."""
    installed = [name for name in PEERS if is_installed(name)]
    return [name for name in STARTS if name.partition("_")[0] in installed]


def _named_rows_peer(name: str, port: int) -> Peer:
    return Peer(
        name=name,
        url=f"http://127.0.0.1:{port}/predict",
        body=lambda rows: orjson.dumps({"instances": list(rows)}),
        read_scores=lambda answer: [row["score"] for row in answer["predictions"]],
    )


def _encode_tensors(bundle: Bundle, rows: Rows) -> bytes:
    encoded = bundle.encoding.encode_rows(list(rows), bundle.columns)
    numeric, categorical = encoded.numeric, encoded.categorical
    inputs = [
        {"name": "numeric", "shape": numeric.shape, "datatype": "FP32", "data": numeric.ravel().tolist()},
        {"name": "categorical", "shape": categorical.shape, "datatype": "INT64", "data": categorical.ravel().tolist()},
    ]
    return orjson.dumps({"inputs": inputs})


def encode_columns(rows: Rows) -> bytes:
    inputs = [
        {"name": name, "shape": [len(rows)], "datatype": V2_TYPES[type(value)], "data": [row[name] for row in rows]}
        for name, value in rows[0].items()
    ]
    return orjson.dumps({"inputs": inputs})


@contextlib.contextmanager
def _running(
    peer: Peer, bundle: Bundle, command: list[str], directory: Path, rows: Rows, **variables: str
) -> Iterator[None]:
    """The command, from its peer's environment and in a session of its own, until it answers as the bundle would."""
    if not is_installed(peer.name):
        raise TealError(f"{peer.name} is not installed as pinned; run `make bench-peers`")
    program = environment(peer.name) / "bin" / command[0]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN_VARIABLES)}
    log_path = directory / f"{peer.name}.{urlsplit(peer.url).port}.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [program, *command[1:]],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=kept | {"PYTHONPATH": str(ROOT)} | variables,
            cwd=directory,
            start_new_session=True,
        )
    try:
        _wait_scores(peer, bundle, rows, process, log_path)
        yield
    finally:
        _stop(process)


def _wait_scores(peer: Peer, bundle: Bundle, rows: Rows, process: subprocess.Popen[bytes], log_path: Path) -> None:
    encoded = bundle.encoding.encode_rows(list(rows), bundle.columns)
    expected = bundle.model.predict(encoded.numeric, encoded.categorical)
    deadline = time.monotonic() + READY_TIMEOUT_S
    while True:
        try:
            scores = peer.scores(rows)
            break
        except OSError as error:
            if isinstance(error, urllib.error.HTTPError) and error.code not in NOT_YET:
                raise TealError(f"{peer.name} answers {error.code}: {error.read()[:500]!r}") from error
            if process.poll() is not None or time.monotonic() > deadline:
                raise TealError(f"{peer.name} does not answer: {error}; it says: {_tail(log_path)}") from error
        time.sleep(0.1)
    if not np.allclose(scores, expected, rtol=0, atol=1e-6):
        raise TealError(f"{peer.name} scores {scores[:3]} where the bundle scores {expected[:3].tolist()}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the whole session: politely, then by force. No process of it is left when this returns."""
    _signal(process.pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while _has_members(process):
        if time.monotonic() > deadline:
            _signal(process.pid, signal.SIGKILL)
        time.sleep(0.05)


def _has_members(process: subprocess.Popen[bytes]) -> bool:
    process.poll()  # reaps the first of them, which would count as a member otherwise
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    return True


def _signal(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _tail(path: Path) -> str:
    return path.read_text(errors="replace")[-1500:]


def main() -> int:
    from tests.serving_example import example_row, save_example_bundle

    rows = [example_row(seed) for seed in range(64)]
    for name in sys.argv[1:] or installed_peers():
        with tempfile.TemporaryDirectory(prefix="tp-") as temporary:
            directory = Path(temporary)
            save_example_bundle(directory / "bundle")
            started = time.monotonic()
            with STARTS[name](directory / "bundle", directory, rows) as peer:
                print(
                    f"{name}: {peer.url} scores as the bundle does, {time.monotonic() - started:.1f} s after its start"
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
