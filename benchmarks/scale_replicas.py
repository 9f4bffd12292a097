"""What a second replica of a slot brings: rate with two over rate with one, both up at once, taking turns.

For a model that computes, and for one that waits as it would for a GPU. What this machine allows is told beside it: the
CPU that one request costs all processes together says how many a second all its cores could ever answer.
"""

import contextlib
import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from benchmarks.example_models import MODEL_DELAY_MS, save_slow_bundle
from benchmarks.result import Figure
from benchmarks.running_teal import wait_answer
from benchmarks.wrk import JSON, Contestant, run_wrk, write_script
from runtime.config.monitoring import MonitoringConfig
from runtime.config.schema import Config
from runtime.config.serving import EdgeConfig, ServingConfig
from tests.serving_example import example_config, example_model_version, example_row

CONNECTIONS = (16, 64)
"""The rate is the best of them."""
TARGET = 1.7
KINDS = ("waits", "computes")
COUNTS = (1, 2)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rate:
    per_s: float
    busy_cores: float
    """Of the whole machine, meanwhile."""


Rounds = dict[tuple[str, int], list[Rate]]
"""Kind of model and number of replicas to one rate a round."""


def measure_replicas(*, num_rounds: int, duration_s: int) -> Rounds:
    with tempfile.TemporaryDirectory(prefix="tr-") as temporary:
        directory = Path(temporary)
        with running(directory) as contestants:
            found: Rounds = {key: [] for key in contestants}
            for one in contestants.values():
                best_rate(one, directory, 1)
            for number in range(num_rounds):
                order = list(contestants)[:: -1 if number % 2 else 1]
                for key in order:
                    found[key].append(best_rate(contestants[key], directory, duration_s))
                told = ", ".join(f"{kind} × {count}: {found[kind, count][-1].per_s:.0f}/s" for kind, count in found)
                print(f"replicas, round {number + 1} of {num_rounds}: {told}", file=sys.stderr, flush=True)
    return found


def best_rate(contestant: Contestant, directory: Path, duration_s: int) -> Rate:
    script = write_script(contestant, directory)
    rates = []
    for connections in CONNECTIONS:
        before = busy_s()
        measured = run_wrk(contestant.name, contestant.url, script, connections=connections, duration_s=duration_s)
        rates.append(Rate(per_s=measured.requests_per_s, busy_cores=(busy_s() - before) / duration_s))
    return max(rates, key=lambda rate: rate.per_s)


def busy_s() -> float:
    """What all cores have computed since the machine began."""
    user, nice, system, _idle, _iowait, irq, softirq = map(int, Path("/proc/stat").read_text().split()[1:8])
    return (user + nice + system + irq + softirq) / 100


def build_figures(found: Rounds, num_cores: int) -> list[Figure]:
    figures = []
    for kind in KINDS:
        one, two = found[kind, 1], found[kind, 2]
        ratio = statistics.median(second.per_s / first.per_s for first, second in zip(one, two, strict=True))
        # More than all cores together can do is not to be had; generator, edge and replicas share them.
        allowed = statistics.median(num_cores / rate.busy_cores for rate in one)
        target = TARGET if kind == "waits" else None
        figures += [
            Figure(name=f"replicas_{kind}_1_to_2", value=ratio, unit="ratio", target=target, op=">="),
            Figure(name=f"replicas_{kind}_allowed", value=allowed, unit="ratio", target=None, op=">="),
        ]
        for count in COUNTS:
            rate = statistics.median(rate.per_s for rate in found[kind, count])
            figures.append(Figure(name=f"replicas_{kind}_{count}", value=rate, unit="requests/s", target=None, op=">="))
    return figures


def describe(found: Rounds) -> dict[str, Any]:
    return {
        "model_delay_ms": MODEL_DELAY_MS,
        **{
            f"{kind}_{count}": {
                "per_s": [round(rate.per_s, 1) for rate in rates],
                "busy_cores": [round(rate.busy_cores, 2) for rate in rates],
            }
            for (kind, count), rates in found.items()
        },
    }


@contextlib.contextmanager
def running(directory: Path) -> Iterator[dict[tuple[str, int], Contestant]]:
    """A whole teal with four endpoints of one filled slot, and who asks each."""
    from runtime.cluster.token import read_token
    from runtime.governance.principals import issue_token
    from runtime.pipeline.platform import start_platform, stop_platform
    from runtime.pipeline.progress import Silent
    from runtime.serving.reconcile import reconcile
    from runtime.store.rollouts import RolloutStore

    config = scale_config(directory / "home")
    models = {"computes": example_model_version(directory / "bundle")}
    save_slow_bundle(directory / "bundle", directory / "slow")
    models["waits"] = example_model_version(directory / "slow", version=2)
    store = RolloutStore.of(config.paths)
    store.create_schema()
    token = issue_token(store, "caller", actor="benchmark", roles=["predict"]).secret
    headers = JSON | {"authorization": f"Bearer {token}"}
    body = orjson.dumps({"instances": [example_row()]})
    contestants = {}
    try:
        start_platform(config, Silent())
        for kind, count in ((kind, count) for kind in KINDS for count in COUNTS):
            name = f"{kind}{count}"
            store.record_model_version(models[kind])
            store.assign_slot(name, None, models[kind], actor="benchmark")
            of_endpoint = replace(config, serving=serving_of(name, count))
            reconcile(store, of_endpoint, token=read_token(config.paths.run))
            url = f"http://{config.cluster.host}:{config.cluster.ports.edge}/v1/models/{name}:predict"
            contestants[kind, count] = Contestant(name=name, url=url, headers=headers, body=body)
        for contestant in contestants.values():
            wait_answer(contestant)
        yield contestants
    finally:
        store.close()
        stop_platform(config)


def scale_config(home: Path) -> Config:
    config = example_config(home, endpoint=f"{KINDS[0]}{COUNTS[0]}")
    return replace(
        config,
        serving=serving_of(config.serving.endpoint, COUNTS[0]),
        monitoring=MonitoringConfig(),
        edge=EdgeConfig(require_token=True),
    )


def serving_of(endpoint: str, count: int) -> ServingConfig:
    return ServingConfig(
        endpoint=endpoint, min_replicas=count, max_replicas=count, least_replicas=count, ready_timeout_s=240.0
    )
