"""Commands of a rollout: start, watch, pause, resume, promote, abort, approve, certificate. They do not join Ray."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from runtime.cli import render_rollout
from runtime.cli.context import Output, find_endpoint, progress_bar, read_config
from runtime.config.compose import compose
from runtime.config.schema import Config
from runtime.core.errors import RefusedError, TealError
from runtime.core.files import write_atomic
from runtime.rollout.traffic import current_actor
from runtime.store.records import EndpointState
from runtime.store.rollouts import Rollout, RolloutStore

WAIT_INTERVAL_S = 0.5

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; kept in the audit chain.")]
Key = Annotated[str | None, typer.Option("--key", help="Idempotency key: repeated with it, nothing happens again.")]
Endpoint = Annotated[str | None, typer.Argument(help="Default: the only one, or the configured one.")]
Which = Annotated[str | None, typer.Argument(metavar="[ROLLOUT]", help="A rollout or its endpoint.")]
Plan = Annotated[str, typer.Option("--plan", help="cautious, standard, fast, or one of your own in configs/rollout.")]
ExpectRps = Annotated[float | None, typer.Option("--expect-rps", help="Requests a second to both slots together.")]


def register(app: typer.Typer) -> None:
    group = typer.Typer(help="Move traffic to the canary step by step, as the evidence allows.", no_args_is_help=True)
    for command in (start, status, pause, resume, promote, abort, history, plan, certificate):
        group.command()(command)
    app.add_typer(group, name="rollout")
    app.command()(approve)


def start(
    endpoint: Endpoint = None,
    plan: Plan = "standard",
    expect_rps: ExpectRps = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for its end; exit code 3 unless it succeeded.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the plan and show the steps; start nothing.")
    ] = False,
    reason: Reason = "",
    key: Key = None,
    is_json: Json = False,
) -> None:
    """Start the rollout of the model in the canary's slot."""
    from runtime.rollout import commands

    config, store = _open()
    name = find_endpoint(config, store, endpoint)
    wanted = _compose_plan(plan)
    if dry_run:
        draft = commands.draft(store, name, wanted, plan, requests_per_s=expect_rps)
        Output(is_json).show(draft, lambda: render_rollout.draft(draft))
        return
    rollout = commands.start(
        store, name, wanted, plan, author=current_actor(), requests_per_s=expect_rps, reason=reason, key=key
    )
    if wait:
        _wait(store, rollout.id)
    _show(store, store.rollout(rollout.id), is_json)
    if wait and store.rollout(rollout.id).phase != "Succeeded":
        raise RefusedError(f"rollout {rollout.id} ended: {store.rollout(rollout.id).reason}")


def status(
    rollout: Which = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write the page here as well.")] = None,
    is_json: Json = False,
) -> None:
    """Where a rollout stands, and its evidence over time against 1/α."""
    from runtime.rollout.page import render_page
    from runtime.rollout.summary import summarise

    _, store, found = _find(rollout)
    if html is not None:
        write_atomic(html, render_page(summarise(store, found)))
    _show(store, found, is_json)


def pause(rollout: Which = None, reason: Reason = "", key: Key = None, is_json: Json = False) -> None:
    """Stay at the present step until `resume`. Evidence against the canary still takes it back."""
    _apply("pause", rollout, reason, key, is_json)


def resume(rollout: Which = None, reason: Reason = "", key: Key = None, is_json: Json = False) -> None:
    """Go on after a pause or a hold; the step has its time anew."""
    _apply("resume", rollout, reason, key, is_json)


def promote(
    rollout: Which = None,
    now: Annotated[bool, typer.Option("--now", help="Do not wait for the replicas that the canary will need.")] = False,
    reason: Reason = "",
    key: Key = None,
    is_json: Json = False,
) -> None:
    """Give the canary all traffic, without the evidence of the steps that are left, once it has the replicas for it."""
    from runtime.rollout.operations import promote_rollout

    config, store, found = _find(rollout)
    with progress_bar() as progress:
        promoted = promote_rollout(
            config,
            store,
            found,
            actor=current_actor(),
            reason=reason,
            key=key,
            has_room=now,
            on_progress=progress.update,
        )
    _show(store, promoted, is_json)


def abort(rollout: Which = None, reason: Reason = "", key: Key = None, is_json: Json = False) -> None:
    """Take the canary's traffic away and end the rollout."""
    _apply("abort", rollout, reason, key, is_json)


def history(endpoint: Endpoint = None, is_json: Json = False) -> None:
    """All rollouts, the newest last."""
    _, store = _open()
    found = store.rollouts(endpoint)
    Output(is_json).show([_short(rollout) for rollout in found], lambda: render_rollout.history(found))


def plan(
    plan: Annotated[str, typer.Argument(help="cautious, standard, fast, or one of your own.")] = "standard",
    expect_rps: ExpectRps = None,
    is_json: Json = False,
) -> None:
    """What each step of a plan needs before it is decided; exit code 2 if one never can be."""
    from runtime.rollout.plan import check_plan, outlook

    wanted = _compose_plan(plan)
    steps = outlook(wanted, expect_rps)
    Output(is_json).show(steps, lambda: render_rollout.outlook(steps, wanted.promote_on))
    check_plan(wanted, expect_rps)


def certificate(
    rollout: Which = None,
    verify: Annotated[bool, typer.Option("--verify", help="Check signature and audit chain.")] = False,
    is_json: Json = False,
) -> None:
    """A finished rollout's signed certificate."""
    from runtime.rollout.certificate import certificate_path, find_faults, read_certificate

    config, store, found = _find(rollout)
    read = read_certificate(config.paths, found.id)
    faults = find_faults(read, store, config.paths) if verify else []
    path = certificate_path(config.paths, found.id)
    shown = {"certificate": read, "path": str(path), "faults": faults if verify else None}
    Output(is_json).show(shown, lambda: render_rollout.certificate(read, path, faults if verify else None))
    if faults:
        raise RefusedError(f"the certificate of {found.id} is not what its rollout left: {'; '.join(faults)}")


def approve(
    rollout: Which = None,
    deny: Annotated[bool, typer.Option("--deny", help="Refuse it; the rollout is aborted.")] = False,
    reason: Reason = "",
    is_json: Json = False,
) -> None:
    """Approve what a rollout waits for, as another person than the one who started it."""
    from runtime.rollout.commands import decide_approval

    _, store, found = _find(rollout)
    decided = decide_approval(store, found.id, by=current_actor(), is_approved=not deny, reason=reason)
    Output(is_json).show(decided, lambda: f"{decided.subject}: {decided.state} by {decided.decided_by}")


def controller_note(store: RolloutStore) -> str | None:
    """Who does not look after rollouts, if nobody does."""
    from runtime.rollout.controller import LEASE

    lease = store.lease(LEASE)
    if lease is not None and lease.expires_at > time.time():
        return None
    return "no controller looks after it; `teal up` starts one"


def _apply(event: str, asked: str | None, reason: str, key: str | None, is_json: bool) -> None:
    from runtime.rollout.commands import apply_event
    from runtime.rollout.phases import Event
    from runtime.serving.edge_files import touch_hint

    config, store, found = _find(asked)
    changed = apply_event(store, found.id, Event(event), by=current_actor(), reason=reason, key=key)
    touch_hint(config.paths)
    _show(store, changed, is_json)


def _open() -> tuple[Config, RolloutStore]:
    config = read_config()
    return config, RolloutStore.of(config.paths)


def _find(asked: str | None) -> tuple[Config, RolloutStore, Rollout]:
    from runtime.rollout.commands import find_rollout

    config, store = _open()
    endpoint = find_endpoint(config, store, None) if asked is None else None
    return config, store, find_rollout(store, asked, endpoint)


def _compose_plan(name: str) -> Any:
    return compose([f"rollout={name}"]).rollout


def _show(store: RolloutStore, rollout: Rollout, is_json: bool) -> None:
    from runtime.rollout.summary import read_shadow

    ticks = store.analysis_ticks(rollout.id)
    note = controller_note(store) if rollout.is_active else None
    state: EndpointState = store.endpoint(rollout.endpoint)
    shown = {**_short(rollout), "share": state.share, "ticks": len(ticks), "note": note}
    shown["verdict"] = ticks[-1].verdict if ticks else None
    shown["shadow"] = shadow = read_shadow(store, rollout)
    Output(is_json).show(shown, lambda: render_rollout.status(rollout, state, ticks, note, shadow))


def _short(rollout: Rollout) -> dict[str, Any]:
    hidden = ("progress", "plan", "generation", "resumed_step")
    return {name: getattr(rollout, name) for name in Rollout.__slots__ if name not in hidden}


def _wait(store: RolloutStore, rollout_id: str) -> None:
    """Until the rollout ends, or nobody can go on with it but a person."""
    with progress_bar() as progress:
        while True:
            rollout = store.rollout(rollout_id)
            steps = rollout.plan["steps_percent"]
            progress.update(_progress_text(store, rollout), rollout.step + 1, len(steps))
            if not rollout.is_active:
                return
            if rollout.phase in ("Paused", "AwaitingApproval"):
                raise RefusedError(f"rollout {rollout.id} is {rollout.phase}: {rollout.reason}")
            if (note := controller_note(store)) is not None and time.time() - rollout.changed_at > 30:
                raise TealError(f"rollout {rollout.id} does not go on: {note}")
            time.sleep(WAIT_INTERVAL_S)


def _progress_text(store: RolloutStore, rollout: Rollout) -> str:
    from runtime.rollout.plan import plan_from_json, steps_of
    from runtime.rollout.progress import Progress
    from runtime.rollout.summary import read_shadow

    shadow = read_shadow(store, rollout) if rollout.phase == "Shadowing" else None
    note = rollout.reason if shadow is None else shadow.reason
    if rollout.step < 0 or not rollout.progress:
        return render_rollout.progress_text(rollout, None, 0, note)
    plan = plan_from_json(rollout.plan)
    analysis = Progress.from_json(plan, steps_of(plan)[rollout.step], rollout.progress).analysis
    return render_rollout.progress_text(rollout, analysis.verdict(), analysis.step_requests, note)
