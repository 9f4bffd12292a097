"""Requests per second of one-row predictions: teal's split edge against what people would use instead.

All are up at the same time and take turns, so that a slow minute of the machine hits all of them. wrk drives each at
1 and at 32 connections; a figure is the median over rounds of the ratio within a round. teal's way does more than the
others': it splits, asks for a bearer token, checks the contract, logs every row, counts drift.
"""

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import orjson  # noqa: E402

from benchmarks.peer_serving import STARTS, installed_peers  # noqa: E402
from benchmarks.result import Figure, report  # noqa: E402
from benchmarks.running_teal import (  # noqa: E402
    CANARY_SHARE,
    RayPeer,
    RunningTeal,
    check_refuses_strangers,
    teal_cluster,
    wait_answer,
)
from benchmarks.wrk import JSON, Contestant, Measured, median, run_wrk, write_script  # noqa: E402
from runtime.cluster.free_ports import free_ports  # noqa: E402
from runtime.config.cluster import PortsConfig  # noqa: E402
from runtime.core.errors import TealError  # noqa: E402
from tests.serving_example import example_config, example_model_version, example_row  # noqa: E402

CONNECTIONS = (1, 32)
IDLE_WATCHED_S = 3.0
RAY_SERVE_VARIABLES = ("RAY_SERVE_", "RAY_AUTH", "RAY_ADDRESS", "TEAL_", "RAY_ENABLE", "DASHBOARD_")
TARGETS = {
    "serve_direct": 0.85,
    "serve_gateway": 15.0,
    "serve_gateway_throughput": 5.0,
    "serve_gateway_tuned": None,
    "uvicorn": 0.7,
    "mlserver": 1.1,
    "litserve": 2.0,
    "bentoml": 4.0,
}
PEERS = {
    "serve_direct": "bare",
    "serve_gateway": "gateway_default",
    "serve_gateway_throughput": "gateway_throughput",
    "serve_gateway_tuned": "gateway_tuned",
    "uvicorn": "uvicorn",
    "mlserver": "mlserver",
    "litserve": "litserve",
    "bentoml": "bentoml",
}
APART = ("mlserver", "litserve", "bentoml")
"""Those that are there only where `make bench-peers` has built their environments."""

Samples = dict[str, dict[int, list[Measured]]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few short rounds: for a look, not for a record")
    parser.add_argument("--json", type=Path, help="write the document here")
    arguments = parser.parse_args()
    rounds, duration_s = (2, 2) if arguments.quick else (7, 4)
    if shutil.which("wrk") is None:
        print("wrk is not installed; on Debian `apt-get install wrk`", file=sys.stderr)
        return 1
    missing = sorted(set(APART) - set(installed_peers()))
    if missing:
        print(f"not installed and left out: {', '.join(missing)}; `make bench-peers` installs them", file=sys.stderr)
    used_before = used_mib()
    try:
        with tempfile.TemporaryDirectory(prefix="tb-") as directory, targets(Path(directory)) as (teal, contestants):
            memory_mib, idle_cpus = used_mib() - used_before, busy_cpus(IDLE_WATCHED_S)
            samples = measure(contestants, Path(directory), rounds=rounds, duration_s=duration_s)
            kept = teal.kept("example")
    except TealError as error:
        print(f"benchmarks/serving.py: {error}", file=sys.stderr)
        return error.exit_code
    figures = [
        Figure(name=name, value=median_ratio(samples, "teal", PEERS[name], 32), unit="ratio", target=target, op=">=")
        for name, target in TARGETS.items()
        if PEERS[name] in samples
    ]
    teal_per_s = median(samples["teal"][32], "requests_per_s")
    figures += [
        Figure(name="teal_requests", value=teal_per_s, unit="requests/s", target=None, op=">="),
        Figure(name="teal_rows_not_logged", value=kept["dropped_rows"], unit="rows", target=0, op="<="),
        Figure(name="idle_cpus", value=idle_cpus, unit="CPUs", target=None, op="<="),
    ]
    raw = {
        "rounds": rounds,
        "round_s": duration_s,
        "canary_share": CANARY_SHARE / 10_000,
        "teal_kept": kept,
        "all_up_mib": memory_mib,
        "by_target": {
            name: {
                str(connections): {field: median(values, field) for field in ("requests_per_s", "p50_ms", "p99_ms")}
                | {"rounds": [value.requests_per_s for value in values]}
                for connections, values in by_connections.items()
            }
            for name, by_connections in samples.items()
        },
        "ratios_at_1_connection": {
            name: median_ratio(samples, "teal", peer, 1) for name, peer in PEERS.items() if peer in samples
        },
    }
    return report("serving", figures, raw, arguments.json)


def measure(contestants: Sequence[Contestant], directory: Path, *, rounds: int, duration_s: int) -> Samples:
    """Every contestant in turn, round after round, the order reversed in every second one."""
    samples: Samples = {one.name: {connections: [] for connections in CONNECTIONS} for one in contestants}
    scripts = {one.name: write_script(one, directory) for one in contestants}
    for one in contestants:
        run_wrk(one.name, one.url, scripts[one.name], connections=8, duration_s=1)
    for number in range(rounds):
        ordered = contestants if number % 2 == 0 else contestants[::-1]
        for connections in CONNECTIONS:
            for one in ordered:
                measured = run_wrk(one.name, one.url, scripts[one.name], connections=connections, duration_s=duration_s)
                samples[one.name][connections].append(measured)
                print(
                    f"round {number + 1}/{rounds} {one.name:20} {connections:3} connections "
                    f"{measured.requests_per_s:8.0f}/s p50 {measured.p50_ms:7.2f} ms p99 {measured.p99_ms:7.2f} ms",
                    file=sys.stderr,
                )
    return samples


def median_ratio(samples: Samples, name: str, peer: str, connections: int) -> float:
    pairs = zip(samples[name][connections], samples[peer][connections], strict=True)
    return statistics.median(ours.requests_per_s / theirs.requests_per_s for ours, theirs in pairs)


def used_mib() -> float:
    """Memory of the whole machine that is in use."""
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    kib = {fields[0]: int(fields[1]) for fields in lines}
    return (kib["MemTotal:"] - kib["MemAvailable:"]) / 1024


def busy_cpus(watched_s: float) -> float:
    """CPUs of the whole machine that are busy, on average: what the contestants cost while nobody asks them."""

    def jiffies() -> tuple[int, int]:
        values = [int(value) for value in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        return sum(values), values[3] + values[4]

    total, idle = jiffies()
    time.sleep(watched_s)
    later_total, later_idle = jiffies()
    return (os.cpu_count() or 1) * (1 - (later_idle - idle) / (later_total - total))


# -- what is measured --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def targets(directory: Path) -> Iterator[tuple[RunningTeal, list[Contestant]]]:
    """Everything up and warm."""
    config = example_config(directory / "home")
    bundle_dir = directory / "bundle"
    model = example_model_version(bundle_dir)
    default, throughput = free_ports(), free_ports()
    host, rows = config.cluster.host, [example_row()]
    body = orjson.dumps({"instances": rows})
    mode = throughput_mode(throughput, directory)
    found: list[Contestant] = []

    def add(name: str, url: str, body: bytes = body, headers: Mapping[str, str] = JSON) -> None:
        contestant = Contestant(name=name, url=url, body=body, headers=headers)
        wait_answer(contestant)
        found.append(contestant)

    with contextlib.ExitStack() as stack:
        # One after the other: two Rays that start at once may take each other's ports.
        for name in (name for name in installed_peers() if name in APART):
            apart = stack.enter_context(STARTS[name](bundle_dir, directory, rows))
            add(name, apart.url, apart.body(rows))
        stack.enter_context(peer("uvicorn", bundle_dir, default.edge))
        add("uvicorn", f"http://{host}:{default.edge}/predict")
        stack.enter_context(peer("gateway", bundle_dir, default.serve))
        add("gateway_default", f"http://{host}:{default.serve}/gateway")
        stack.enter_context(peer("gateway", bundle_dir, throughput.serve, **mode))
        add("gateway_throughput", f"http://{host}:{throughput.serve}/gateway")
        on_ray = [
            RayPeer(app=app, builder=builder, bundle_dir=bundle_dir)
            for app, builder in (("bare", "bare"), ("gateway-tuned", "gateway"))
        ]
        teal = stack.enter_context(teal_cluster(config, {"example": model}, on_ray))
        add("gateway_tuned", teal.ray_url("gateway-tuned"))
        add("bare", teal.ray_url("bare"))
        add("teal", teal.url("example"), headers=teal.headers)
        check_refuses_strangers(found[-1])
        yield teal, found


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


if __name__ == "__main__":
    sys.exit(main())
