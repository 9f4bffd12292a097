"""The whole loop on a year of real flights, in the order of the year. Nothing in it is scripted to succeed.

It drives the same steps as the commands do, on a platform of its own: own home, own free ports, nothing left behind.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from runtime.cluster.free_ports import free_ports
from runtime.config.compose import compose, save_config
from runtime.core.errors import RefusedError, TealError
from runtime.data.contract import group_name, label_name
from runtime.monitoring.actor import mark_period, monitor_drift
from runtime.monitoring.quality import Quality
from runtime.pipeline.demo_quality import month_quality
from runtime.pipeline.demo_record import DemoGate, DemoPhase, DemoRecord
from runtime.pipeline.demo_world import WORLD_WINDOW, World
from runtime.pipeline.load import BackgroundLoad
from runtime.pipeline.platform import start_platform, stop_platform
from runtime.pipeline.progress import Progress
from runtime.pipeline.replay import replay, send_labels
from runtime.pipeline.steps import (
    Deployed,
    Session,
    deploy_version,
    prepare_data,
    promote_canary,
    register_candidate,
    sweep_models,
)
from runtime.rollout import operations
from runtime.store.records import EndpointState, Slot

ACTOR = "demo"
SEED = 20130101
LOAD_PER_S = 80.0
ANSWERS_PER_PHASE = 500
PHASE_TIMEOUT_S = 60.0
MONITOR_TIMEOUT_S = 20.0
SLOW_DELAY_MS = 40
ROLLBACK_SETTLE_S = 3.0
"""How long the load goes on after the rollback, to see whether the bad slot still begins an answer."""
FIRST_WINDOW = ("data.until=2013-06-01",)
FIRST_TRAINING = ("training.train_until=2013-05-01", "training.validation_since=2013-05-01")
SECOND_WINDOW = ("data.until=2013-08-01",)
SECOND_TRAINING = ("training.train_until=2013-07-01",)
SECOND_GATE = ("gate.holdout_since=2013-07-01", "gate.holdout_until=2013-08-01")
STALE_TRAINING = ("training.train_until=2013-01-15", "training.epochs=2", "tune.num_samples=1")


class Screen(Progress, Protocol):
    """Where the demo shows itself."""

    def stage(self, title: str) -> None:
        """A new stage begins; the one before it is done."""

    def fact(self, text: str) -> None:
        """Something was found out."""


class Demo:
    """One run. Each stage leaves what it found in `record`."""

    def __init__(self, session: Session, screen: Screen, overrides: list[str]) -> None:
        self.session = session
        self.screen = screen
        self.overrides = overrides
        self.store = session.store
        self.endpoint = session.config.serving.endpoint
        cluster = session.config.cluster
        self.edge_url = f"http://{cluster.host}:{cluster.ports.edge}"
        self.world = World(session)
        self.record = DemoRecord()
        self.load: BackgroundLoad | None = None

    def run(self) -> None:
        try:
            self.first_model()
            self.start_load()
            for month in ("June", "July"):
                self.live_through(month)
            self.retrain()
            self.ship()
            self.refuse()
            self.break_and_roll_back()
            assert self.load is not None
            self.record.answers = self.load.stop()
        finally:
            if self.load is not None:
                self.load.kill()

    # -- stages ----------------------------------------------------------------------------------------------------

    def first_model(self) -> None:
        self.screen.stage("January to April: prepare, sweep, gate, deploy the first model")
        version = prepare_data(self.at(*FIRST_WINDOW)).version
        self.saw(f"data {version.label}: {version.num_rows:,} flights of January to May")
        self.record.data_versions.append(version.label)
        prepare_data(self.at(*WORLD_WINDOW))
        session = self.at(*FIRST_WINDOW, *FIRST_TRAINING)
        model = self.sweep_and_register(session, "first")
        deployed = deploy_version(session, model, actor=ACTOR)
        self.record.champion = model
        self.saw(f"{model} serves, in slot {deployed.slot}")

    def start_load(self) -> None:
        url = f"{self.edge_url}/v1/models/{self.endpoint}:predict"
        self.load = BackgroundLoad(url, self.world.sample("May"), rate_per_s=LOAD_PER_S, seed=SEED)
        self.event("the load starts")

    def live_through(self, month: str) -> None:
        self.screen.stage(f"{month}: its flights come as requests, their labels come back")
        assert self.load is not None
        self.load.set_rows(self.world.sample(month))
        self.event(f"{month} begins")
        since = mark_period(self.session.config)
        table = self.world.month(month)
        columns = self.session.config.data.columns
        day = group_name(columns)
        assert day is not None
        groups, labels = (table.column(name).to_pylist() for name in (day, label_name(columns)))
        replayed = replay(self.edge_url, self.endpoint, self.world.rows(table), groups, labels, month, self.screen)
        self.record.replayed.append(replayed)
        sent, failed = send_labels(self.edge_url, self.endpoint, replayed, self.screen)
        self.record.num_label_requests += sent
        self.record.num_label_requests_failed += failed
        quality = self.wait_for_quality(month, len(replayed.labels))
        self.saw(f"{month} by its labels: AUC {quality.auc.value!s:.5}, log loss {quality.log_loss.value!s:.5}")
        self.record.drift[month] = self.read_drift(since, table.num_rows)
        worst = sorted(self.record.drift[month].items(), key=lambda item: -item[1])[:3]
        self.saw(f"{month} drifts most in " + ", ".join(f"{name} (PSI {psi:.2f})" for name, psi in worst))

    def retrain(self) -> None:
        self.screen.stage("retrain through June, compare on the flights of July")
        self.event("retraining starts")
        version = prepare_data(self.at(*SECOND_WINDOW)).version
        self.record.data_versions.append(version.label)
        self.saw(f"data {version.label}: {version.num_rows:,} flights of January to July")
        self.challenger = self.sweep_and_register(self.at(*SECOND_WINDOW, *SECOND_TRAINING, *SECOND_GATE), "retrained")

    def ship(self) -> None:
        self.screen.stage(f"ship {self.challenger}: 10, 50, 100 %")
        deployed = deploy_version(self.session, self.challenger, actor=ACTOR)
        for percent in self.session.config.rollout.steps_percent:
            self.shift_and_wait(percent * 100, deployed, f"{percent} % to {self.challenger}")
        state = promote_canary(self.session, self.endpoint, actor=ACTOR)
        self.record.phases[-1].generations.add(state.generation)
        self.record.champion = self.challenger
        self.event(f"{self.challenger} is champion")
        self.saw(f"{self.challenger} has all traffic and is champion")

    def refuse(self) -> None:
        self.screen.stage("a candidate of two weeks of January meets the gate")
        self.event("a stale candidate is trained")
        session = self.at(*SECOND_WINDOW, *STALE_TRAINING, *SECOND_GATE, "model=linear", "tune.families=[linear]")
        try:
            self.sweep_and_register(session, "stale")
        except RefusedError as refusal:
            self.saw(str(refusal))
        else:
            raise TealError("the gate passed a model of two weeks of January: look at its report before anything else")

    def break_and_roll_back(self) -> None:
        self.screen.stage("a slow model is forced past the gate, and rolled back")
        self.event("a slow model is trained")
        session = self.at(
            *SECOND_WINDOW,
            *STALE_TRAINING,
            *SECOND_GATE,
            "model=mlp",
            "tune.families=[mlp]",
            "model.class_path=runtime.pipeline.slow_model:SlowMLP",
            "model.allowed_modules=[runtime.models,runtime.pipeline.slow_model]",
            f"model.arguments.delay_ms={SLOW_DELAY_MS}",
            "model.space={}",
        )
        reason = "demo: a slow model on purpose"
        self.record.bad_version = self.sweep_and_register(session, "slow", force=True, reason=reason)
        deployed = deploy_version(session, self.record.bad_version, actor=ACTOR, force=True, reason=reason)
        self.record.bad_slot = deployed.slot
        self.saw(f"{self.record.bad_version} is in slot {deployed.slot}, forced; the audit chain says by whom")
        self.shift_and_wait(1000, deployed, f"10 % to {self.record.bad_version}")
        self.roll_back()

    def roll_back(self) -> None:
        """The command itself, as an operator gives it, in a process of its own."""
        self.record.rollback_issued_at = time.time()
        self.event("rollback")
        command = [sys.executable, "-m", "runtime.cli", "rollback", "--reason", "demo: answers are slow", "--json"]
        environment = os.environ | {"TEAL_ACTOR": ACTOR}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if done.returncode != 0:
            raise TealError(f"`teal rollback` ended with {done.returncode}: {done.stderr.strip()}")
        state = self.store.endpoint(self.endpoint)
        self.record_phase("after the rollback", self.record.bad_slot, state)
        assert self.load is not None
        self.load.wait_for(state.generation, int(LOAD_PER_S * ROLLBACK_SETTLE_S), timeout_s=PHASE_TIMEOUT_S)
        self.saw("rolled back")

    # -- parts of stages -------------------------------------------------------------------------------------------

    def at(self, *overrides: str) -> Session:
        """The session under the demo's configuration with these overrides."""
        config = compose([*self.overrides, *overrides])
        return self.session.with_config(
            replace(config, cluster=self.session.config.cluster, paths=self.session.config.paths)
        )

    def sweep_and_register(self, session: Session, name: str, *, force: bool = False, reason: str = "") -> str:
        """The label of the registered version. RefusedError if the gate says no."""
        result = sweep_models(session)
        for number, candidate in enumerate(result.candidates, start=1):
            self.record.candidates.append(candidate)
            self.record.names[candidate.run_id] = f"{name} {candidate.family} {number}"
        best = result.best
        self.saw(
            f"{len(result.candidates)} candidates of {result.num_trials} trials, best: {best.family}, "
            f"AUC {best.metrics['auc']:.3f} on what training held out"
        )
        try:
            registered = register_candidate(session, best.run_id, actor=ACTOR, force=force, reason=reason)
        finally:
            gate = self.store.gates(candidate=best.run_id)[-1]
            self.record.gates.append(
                DemoGate(
                    run_id=best.run_id,
                    champion=gate.champion,
                    holdout=gate.holdout,
                    verdict=gate.verdict,
                    report=gate.report,
                    is_forced=force and gate.verdict != "Passed",
                )
            )
        self.record.names[best.run_id] = f"{name} {registered.model.label}"
        self.saw(f"gate: {registered.report.reasons[0]}")
        return registered.model.label

    def shift_and_wait(self, share: int, deployed: Deployed, name: str) -> None:
        state = operations.shift(self.session.config, self.store, self.endpoint, share, actor=ACTOR).endpoint
        self.event(name)
        self.record_phase(name, deployed.slot, state)
        assert self.load is not None
        self.screen.update(f"{name}: waiting for {ANSWERS_PER_PHASE} answers")
        self.load.wait_for(state.generation, ANSWERS_PER_PHASE, timeout_s=PHASE_TIMEOUT_S)
        counts = self.load.counts()[state.generation]
        self.saw(f"{name}: {counts.get(deployed.slot, 0)} of {sum(counts.values())} answers from slot {deployed.slot}")

    def record_phase(self, name: str, slot: Slot, state: EndpointState) -> None:
        self.record.phases.append(
            DemoPhase(
                name=name,
                slot=slot,
                share=state.slot_share(slot),
                generations={state.generation},
                started_at=time.time(),
            )
        )

    def wait_for_quality(self, month: str, num_labels: int) -> Quality:
        """Quality of one month, once every label is in the log: replicas write what they took every few seconds."""
        deadline = time.monotonic() + MONITOR_TIMEOUT_S
        while True:
            quality = next((one for one in month_quality(self.session, self.record) if one.period == month), None)
            if quality is not None and quality.num_labelled == num_labels:
                return quality
            if time.monotonic() > deadline:
                seen = 0 if quality is None else quality.num_labelled
                raise TealError(
                    f"{seen} of {num_labels} labels of {month} are in the log after {MONITOR_TIMEOUT_S:g} s"
                )
            time.sleep(self.session.config.serving.payload_flush_s / 4)

    def read_drift(self, since: float, num_rows: int) -> dict[str, float]:
        """PSI by feature of what was served since a mark, once the monitor has counted all of it."""
        deadline = time.monotonic() + MONITOR_TIMEOUT_S
        while True:
            until = mark_period(self.session.config)
            entries = monitor_drift(self.session.config, self.endpoint, since=since, until=until)
            entry = max(entries, key=lambda entry: int(entry["rows"]), default=None)
            if entry is not None and entry["rows"] >= num_rows:
                psi: dict[str, float] = entry["psi"]
                return psi
            if time.monotonic() > deadline:
                seen = 0 if entry is None else entry["rows"]
                raise TealError(f"the monitor counted {seen} of {num_rows} rows after {MONITOR_TIMEOUT_S:g} s")
            time.sleep(self.session.config.monitoring.push_interval_s / 2)

    def event(self, title: str, detail: str = "") -> None:
        self.record.events.append((time.time(), title, detail))

    def saw(self, text: str) -> None:
        """Show a fact, and keep it under the event that it belongs to."""
        self.screen.fact(text)
        if self.record.events:
            at, title, detail = self.record.events[-1]
            self.record.events[-1] = (at, title, f"{detail}; {text}" if detail else text)


@contextmanager
def demo_platform(home: Path, screen: Screen, overrides: list[str], *, keep: bool) -> Iterator[Session]:
    """A platform of its own in `home`, which is emptied first: what an earlier run left is stopped and removed."""
    os.environ["TEAL_HOME"] = str(home)
    config = compose(overrides)
    stop_platform(config)
    shutil.rmtree(home, ignore_errors=True)
    config = replace(config, cluster=replace(config.cluster, ports=free_ports()))
    save_config(config, Path(config.paths.run) / "config.json")
    try:
        start_platform(config, screen)
        with Session.open(config, screen) as session:
            yield session
    finally:
        if not keep:
            screen.update("stopping the platform")
            stop_platform(config)


def run_demo(directory: Path, screen: Screen, *, overrides: list[str] | None = None, keep: bool = False) -> Any:
    """Run it and write `summary.json` and `report.html` into `directory`."""
    from runtime.pipeline.demo_summary import summarise
    from runtime.pipeline.report import write_report

    started = time.monotonic()
    screen.stage("start Ray, the control store, the edge and the monitor")
    with demo_platform(directory / "home", screen, overrides or [], keep=keep) as session:
        demo = Demo(session, screen, overrides or [])
        demo.run()
        screen.stage("judge June and July by the labels that came back; write the report")
        summary = summarise(session, demo.record, duration_s=time.monotonic() - started)
        write_report(summary, directory)
    return summary
