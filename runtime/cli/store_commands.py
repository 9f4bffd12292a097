"""Commands about the control store itself: backup, restore, and who is told of changes. They do not join Ray."""

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from runtime.cli.context import Output, read_config
from runtime.core.errors import RefusedError, UnreachableError
from runtime.rollout.traffic import current_actor
from runtime.store.control import ControlStore
from runtime.store.records import BackupSummary

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    app.command()(backup)
    app.command()(restore)
    notify = typer.Typer(help="Who is told of changes.", no_args_is_help=True)
    notify.command("status")(notify_status)
    notify.command("test")(notify_test)
    notify.command("flush")(notify_flush)
    app.add_typer(notify, name="notify")


def backup(file: Path, is_json: Json = False) -> None:
    """Write the control store to FILE: one moment of it, while it is in use. Models and data are not in it."""
    summary = ControlStore.of(read_config().paths).backup(file.resolve())
    Output(is_json).show(summary, lambda: f"{_shown(summary)} written to {file}")
    if summary.faults:
        raise RefusedError(
            f"{file} is written, but the audit chain in it is broken and it will not be restored: {summary.faults[0]}; "
            "see `teal audit verify`"
        )


def restore(
    file: Path,
    force: Annotated[bool, typer.Option("--force", help="Replace a store that holds something.")] = False,
    is_json: Json = False,
) -> None:
    """Bring the control store back from FILE, into SQLite or PostgreSQL, as paths.control says."""
    summary = ControlStore.of(read_config().paths).restore(file.resolve(), actor=current_actor(), force=force)
    Output(is_json).show(
        summary, lambda: [f"{_shown(summary)} restored; `teal up` starts what it says", *_access(summary)]
    )


def _access(summary: BackupSummary) -> list[str]:
    """What a restore did to who may use the edge."""
    notes = []
    if summary.kept_revocations:
        notes.append(f"revoked since the backup, and still so: {', '.join(summary.kept_revocations)}")
    if summary.restored_rights:
        notes.append(
            f"rights are again those of {summary.at}: {', '.join(summary.restored_rights)}; see `teal token list`"
        )
    if summary.num_unchecked_tokens:
        notes.append(
            f"{summary.num_unchecked_tokens} tokens are valid as at {summary.at}; what was revoked after that, in a "
            "store that is lost, is valid again: `teal token list`, `teal token revoke`"
        )
    return notes


def notify_status(is_json: Json = False) -> None:
    """Receivers, and how many messages each has not taken yet."""
    from runtime.governance.notify import CONSUMER_PREFIX

    config = read_config()
    store = ControlStore.of(config.paths)
    backlog = store.backlog()
    oldest = {name: store.pending(CONSUMER_PREFIX + name, now=float("inf"), limit=1) for name in config.notify.sinks}
    rows = [
        {
            "sink": name,
            "kind": sink.kind,
            "waiting": backlog.get(CONSUMER_PREFIX + name, 0),
            "error": oldest[name][0].error if oldest[name] else None,
        }
        for name, sink in config.notify.sinks.items()
    ]

    def draw() -> Table | str:
        table = Table("receiver", "kind", "waiting", "last error of the oldest", box=None)
        for row in rows:
            table.add_row(str(row["sink"]), str(row["kind"]), str(row["waiting"]), str(row["error"] or ""))
        return table if rows else "nobody is told; notify.sinks configures receivers"

    Output(is_json).show(rows, draw)


def notify_test(sink: str, is_json: Json = False) -> None:
    """Send receiver SINK a test event now."""
    from runtime.governance.notify import Notifier

    config = read_config()
    notifier = Notifier(store=ControlStore.of(config.paths), config=config.notify)
    error = notifier.send_test(sink, actor=current_actor(), now=time.time())
    if error is not None:
        raise UnreachableError(f"receiver {sink!r} did not take the test event: {error}")
    Output(is_json).show({"sink": sink, "delivered": True}, lambda: f"{sink} took the test event")


def notify_flush(is_json: Json = False) -> None:
    """Deliver what is due now, where no platform runs to do it."""
    from runtime.governance.notify import Notifier

    config = read_config()
    delivered = Notifier(store=ControlStore.of(config.paths), config=config.notify).deliver_due(time.time())
    Output(is_json).show(
        delivered,
        lambda: f"{delivered.num_sent} sent, {delivered.num_failed} failed, {delivered.num_dropped} dropped",
    )


def _shown(summary: BackupSummary) -> str:
    end = f", chain up to row {summary.head.sequence} ({summary.head.hash[:12]})" if summary.head else ""
    return f"{sum(summary.num_rows.values())} rows of {len(summary.num_rows)} tables{end}"
