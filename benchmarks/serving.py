"""Requests per second of one-row predictions: teal's split edge against what people would use instead.

All are up at the same time and take turns, so that a slow minute of the machine hits all of them. wrk drives each at
1 and at 32 connections; a figure is the median over rounds of the ratio within a round. teal's way does more than the
others': it splits, checks a secret, logs every row, counts drift.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.result import Figure, report  # noqa: E402
from runtime.cluster.free_ports import free_ports  # noqa: E402
from runtime.config.schema import Config, PortsConfig  # noqa: E402
from runtime.core.errors import TealError  # noqa: E402
from tests.serving_example import example_config, example_model_version, example_row  # noqa: E402

CONNECTIONS = (1, 32)
CANARY_SHARE = 1000
RAY_SERVE_VARIABLES = ("RAY_SERVE_", "RAY_AUTH", "RAY_ADDRESS", "TEAL_", "RAY_ENABLE", "DASHBOARD_")
TARGETS = {
    "serve_direct": 0.75,
    "serve_gateway": 10.0,
    "serve_gateway_throughput": 4.0,
    "serve_gateway_tuned": None,
    "uvicorn": None,
}
PEERS = {
    "serve_direct": "bare",
    "serve_gateway": "gateway_default",
    "serve_gateway_throughput": "gateway_throughput",
    "serve_gateway_tuned": "gateway_tuned",
    "uvicorn": "uvicorn",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    requests_per_s: float
    p50_ms: float
    p99_ms: float


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few short rounds: for a look, not for a record")
    parser.add_argument("--json", type=Path, help="write the document here")
    arguments = parser.parse_args()
    rounds, duration_s = (2, 2) if arguments.quick else (7, 4)
    if shutil.which("wrk") is None:
        print("wrk is not installed; on Debian `apt-get install wrk`", file=sys.stderr)
        return 1
    try:
        with tempfile.TemporaryDirectory(prefix="tb-") as directory, targets(Path(directory)) as urls:
            samples = measure(urls, Path(directory), rounds=rounds, duration_s=duration_s)
    except TealError as error:
        print(f"benchmarks/serving.py: {error}", file=sys.stderr)
        return error.exit_code
    figures = [
        Figure(name=name, value=median_ratio(samples, "teal", PEERS[name], 32), unit="ratio", target=target, op=">=")
        for name, target in TARGETS.items()
    ]
    teal = samples["teal"][32]
    figures.append(
        Figure(name="teal_requests", value=median(teal, "requests_per_s"), unit="requests/s", target=None, op=">=")
    )
    raw = {
        "rounds": rounds,
        "round_s": duration_s,
        "canary_share": CANARY_SHARE / 10_000,
        "by_target": {
            name: {
                str(connections): {field: median(values, field) for field in ("requests_per_s", "p50_ms", "p99_ms")}
                | {"rounds": [value.requests_per_s for value in values]}
                for connections, values in by_connections.items()
            }
            for name, by_connections in samples.items()
        },
        "ratios_at_1_connection": {name: median_ratio(samples, "teal", peer, 1) for name, peer in PEERS.items()},
    }
    return report("serving", figures, raw, arguments.json)


def measure(
    urls: dict[str, str], directory: Path, *, rounds: int, duration_s: int
) -> dict[str, dict[int, list[Measured]]]:
    """Every target in turn, round after round, the order reversed in every second one."""
    script = directory / "request.lua"
    body = json.dumps({"instances": [example_row()]})
    script.write_text(f'wrk.method="POST"\nwrk.headers["content-type"]="application/json"\nwrk.body=[[{body}]]\n')
    samples: dict[str, dict[int, list[Measured]]] = {
        name: {connections: [] for connections in CONNECTIONS} for name in urls
    }
    for name, url in urls.items():
        run_wrk(name, url, script, connections=8, duration_s=1)
    for number in range(rounds):
        names = list(urls) if number % 2 == 0 else list(reversed(urls))
        for connections in CONNECTIONS:
            for name in names:
                measured = run_wrk(name, urls[name], script, connections=connections, duration_s=duration_s)
                samples[name][connections].append(measured)
                print(
                    f"round {number + 1}/{rounds} {name:20} {connections:3} connections "
                    f"{measured.requests_per_s:8.0f}/s p50 {measured.p50_ms:7.2f} ms p99 {measured.p99_ms:7.2f} ms",
                    file=sys.stderr,
                )
    return samples


def run_wrk(name: str, url: str, script: Path, *, connections: int, duration_s: int) -> Measured:
    command = ["wrk", "-t1", f"-c{connections}", f"-d{duration_s}s", "--latency", "-s", str(script), url]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in text or "Socket errors" in text:
        raise TealError(f"{name} lost requests: {text}")
    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    if rate is None:
        raise TealError(f"wrk said nothing about {name}: {text}")
    return Measured(
        requests_per_s=float(rate[1]), p50_ms=_percentile_ms(text, "50%"), p99_ms=_percentile_ms(text, "99%")
    )


def _percentile_ms(text: str, percentile: str) -> float:
    found = re.search(rf"^\s+{percentile}\s+([\d.]+)(us|ms|s)\s*$", text, re.MULTILINE)
    if found is None:
        raise TealError(f"wrk gave no {percentile}: {text}")
    return float(found[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[found[2]]


def median(values: list[Measured], field: str) -> float:
    return float(statistics.median(getattr(value, field) for value in values))


def median_ratio(samples: dict[str, dict[int, list[Measured]]], name: str, peer: str, connections: int) -> float:
    pairs = zip(samples[name][connections], samples[peer][connections], strict=True)
    return statistics.median(ours.requests_per_s / theirs.requests_per_s for ours, theirs in pairs)


# -- what is measured --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def targets(directory: Path) -> Iterator[dict[str, str]]:
    """Everything up and warm: name to URL."""
    config = example_config(directory / "home")
    bundle_dir = directory / "bundle"
    model = example_model_version(bundle_dir)
    ports = config.cluster.ports
    default, throughput = free_ports(), free_ports()
    host = config.cluster.host
    urls = {
        "teal": f"http://{host}:{ports.edge}/v1/models/example:predict",
        "bare": f"http://{host}:{ports.serve}/bare",
        "gateway_throughput": f"http://{host}:{throughput.serve}/gateway",
        "gateway_tuned": f"http://{host}:{ports.serve}/gateway-tuned",
        "gateway_default": f"http://{host}:{default.serve}/gateway",
        "uvicorn": f"http://{host}:{default.edge}/predict",
    }
    mode = throughput_mode(throughput, directory)
    with contextlib.ExitStack() as stack:
        # One after the other: two Rays that start at once may take each other's ports.
        stack.enter_context(peer("uvicorn", bundle_dir, default.edge))
        wait_answer("uvicorn", urls["uvicorn"])
        stack.enter_context(peer("gateway", bundle_dir, default.serve))
        wait_answer("gateway_default", urls["gateway_default"])
        stack.enter_context(peer("gateway", bundle_dir, throughput.serve, **mode))
        wait_answer("gateway_throughput", urls["gateway_throughput"])
        stack.enter_context(teal_cluster(config, model, str(bundle_dir)))
        for name, url in urls.items():
            wait_answer(name, url)
        yield urls


@contextlib.contextmanager
def teal_cluster(config: Config, model: Any, bundle_dir: str) -> Iterator[None]:
    """teal with both slots filled and a canary share, and beside it, on the same Ray, the two peers that need it."""
    from runtime.cluster import ray_process

    ray_process.apply_environment(config)
    from runtime.cluster.token import read_token
    from runtime.monitoring.actor import start_monitor
    from runtime.serving.edge_actor import start_edge
    from runtime.serving.reconcile import ServeClient, reconcile
    from runtime.store.control import ControlStore

    store = ControlStore(config.paths.control)
    store.create_schema()
    config = replace(config, serving=replace(config.serving, payload_flush_s=2.0))
    try:
        ray_process.start(config)
        ray_process.connect(config)
        start_monitor(config)
        start_edge(config)
        store.record_model_version(model)
        for _ in range(2):
            store.assign_slot("example", None, model, actor="benchmark")
        store.set_share("example", CANARY_SHARE, actor="benchmark")
        token = read_token(config.paths.run)
        reconcile(store, config, token=token)
        client = ServeClient(config.cluster, token)
        applications = [details["deployed_app_config"] for details in client.details()["applications"].values()]
        applications += [
            {
                "name": name,
                "route_prefix": f"/{name}",
                "import_path": f"benchmarks.serving_peers:build_{builder}",
                "args": {"bundle_dir": bundle_dir, "is_tuned": True},
            }
            for name, builder in (("bare", "bare"), ("gateway-tuned", "gateway"))
        ]
        client.apply(
            {
                "proxy_location": "EveryNode",
                "http_options": {"host": config.cluster.host, "port": config.cluster.ports.serve},
                "applications": applications,
            }
        )
        yield
    finally:
        ray_process.disconnect()
        ray_process.stop(config)


def throughput_mode(ports: PortsConfig, directory: Path) -> dict[str, str]:
    """Serve's throughput mode behind its HAProxy; the rest only keeps it apart from the other Rays of this run."""
    apart = {
        "FALLBACK_PROXY_HTTP_PORT": ports.serve_fallback,
        "FALLBACK_PROXY_GRPC_PORT": ports.serve_fallback_grpc,
        "DIRECT_INGRESS_MIN_HTTP_PORT": ports.replica_min,
        "DIRECT_INGRESS_MAX_HTTP_PORT": ports.replica_max,
        "DIRECT_INGRESS_MIN_GRPC_PORT": ports.replica_grpc_min,
        "DIRECT_INGRESS_MAX_GRPC_PORT": ports.replica_grpc_max,
        "HAPROXY_METRICS_PORT": ports.haproxy_metrics,
        "HAPROXY_STATS_PORT": ports.haproxy_stats,
        "HAPROXY_CONFIG_FILE_LOC": directory / "p" / "haproxy.cfg",
        "HAPROXY_SOCKET_PATH": directory / "p" / "admin.sock",
        "HAPROXY_METRICS_SOCKET_PATH": directory / "p" / "metrics.sock",
        "HAPROXY_SERVER_STATE_BASE": directory / "p",
        "HAPROXY_SERVER_STATE_FILE": directory / "p" / "server-state",
    }
    mode = {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"}
    return mode | {f"RAY_SERVE_{name}": str(value) for name, value in apart.items()}


@contextlib.contextmanager
def peer(name: str, bundle_dir: Path, port: int, **variables: str) -> Iterator[None]:
    """A peer in a process of its own, with these and no other settings of Serve in its environment."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(RAY_SERVE_VARIABLES)}
    environment |= variables | {
        "PYTHONPATH": str(ROOT),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": f"{bundle_dir}.token",
    }
    Path(f"{bundle_dir}.token").write_text("0" * 64)
    arguments = json.dumps({"peer": name, "bundle_dir": str(bundle_dir), "port": port})
    log_path = Path(f"{bundle_dir}.{port}.log")
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.serving_peers", arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=log,
            env=environment,
            cwd=ROOT,
        )
    try:
        yield
    except TealError as error:
        raise TealError(f"{error}; {name} says: {log_path.read_text()[-1500:]}") from error
    finally:
        assert process.stdin is not None
        process.stdin.close()
        if name == "uvicorn":
            process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_answer(name: str, url: str, timeout_s: float = 120.0) -> None:
    body = json.dumps({"instances": [example_row()]}).encode()
    deadline = time.monotonic() + timeout_s
    while True:
        request = urllib.request.Request(url, data=body, headers={"content-type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                if "predictions" in json.load(response):
                    return
        except (OSError, ValueError) as error:
            if time.monotonic() > deadline:
                raise TealError(f"{name} does not answer at {url}: {error}") from error
        time.sleep(0.2)


if __name__ == "__main__":
    sys.exit(main())
