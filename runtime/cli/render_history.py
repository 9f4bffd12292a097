"""The audit chain's rows, each in a line that a person reads. `teal history --json` has them whole."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from runtime.store.records import Transition

Detail = Mapping[str, Any]


def transition_table(transitions: Sequence[Transition]) -> Table:
    table = Table("#", "at", "who", "endpoint", "gen", "action", "what", box=None)
    for row in transitions:
        action = Text(row.action + (" (forced)" if row.forced else ""), style="red" if row.forced else "")
        at = row.at[:19].replace("T", " ")
        table.add_row(str(row.sequence), at, row.actor, row.endpoint, str(row.generation), action, describe(row))
    return table


def describe(row: Transition) -> str:
    """What changed, then why. Of an action that is not known here every detail, none as Python would print it."""
    tell = _TELLERS.get(row.action, _of_rollout if row.action.startswith("rollout ") else _plainly)
    try:
        told = tell(row.detail)
    except (KeyError, TypeError):
        # A row of another version of teal, with other details.
        told = _plainly(row.detail)
    reason = row.detail.get("reason")
    return f"{told}: {reason}" if told and reason else told or str(reason or "")


def _assign(detail: Detail) -> str:
    return f"{detail['model']} into {detail['slot']}"


def _share(detail: Detail) -> str:
    return f"{detail['canary']} {_percent(detail['from'])} → {_percent(detail['to'])}"


def _promote(detail: Detail) -> str:
    return f"{detail['primary']} is the primary"


def _create_token(detail: Detail) -> str:
    until = "" if detail["expires_at"] is None else f", until {_plain(detail['expires_at'])}"
    return f"token {detail['token']} of {detail['principal']}: {_rights(detail)}{until}"


def _set_rights(detail: Detail) -> str:
    return f"{detail['principal']}: {_rights(detail['before'])} → {_rights(detail['after'])}"


def _revoke_token(detail: Detail) -> str:
    return f"token {detail['token']} of {detail['principal']}"


def _rights(rights: Detail) -> str:
    where = "all endpoints" if rights["endpoints"] is None else ", ".join(rights["endpoints"])
    rate = "" if rights["rate"] is None else f", {rights['rate']} requests a second"
    return f"{', '.join(rights['roles'])} on {where}{rate}"


def _of_rollout(detail: Detail) -> str:
    plan = detail.get("plan")
    if plan is not None:
        steps = ", ".join(f"{percent:g}" for percent in plan["steps_percent"])
        return f"{detail['rollout']} of {detail['canary']}, steps {steps} %"
    was, phase = detail.get("was"), detail.get("phase")
    moved = "" if was == phase else f" {was} → {phase}"
    return f"{detail['rollout']}{moved}"


def _certificate(detail: Detail) -> str:
    return f"{detail['rollout']}, sha256 {detail['sha256'][:12]}"


def _training_started(detail: Detail) -> str:
    trigger = detail["trigger"]
    evidence = _plainly(trigger.get("evidence") or {})
    return f"{detail['training']} by trigger {trigger['trigger']}" + (f" ({evidence})" if evidence else "")


def _training_ended(detail: Detail) -> str:
    return f"{detail['training']} {detail['phase']}"


def _approval(detail: Detail) -> str:
    asked = _plainly(detail.get("detail") or {})
    return f"{detail['kind']} {detail['subject']}" + (f" ({asked})" if asked else "")


_TELLERS: dict[str, Callable[[Detail], str]] = {
    "assign": _assign,
    "shift": _share,
    "rollback": _share,
    "promote": _promote,
    "create_token": _create_token,
    "set_rights": _set_rights,
    "revoke_token": _revoke_token,
    "certificate": _certificate,
    "training started": _training_started,
    "training ended": _training_ended,
    "request_approval": _approval,
    "approve": _approval,
    "deny": _approval,
}


def _percent(share: int) -> str:
    return f"{share / 100:g} %"


def _plainly(detail: Detail) -> str:
    return ", ".join(
        f"{name.replace('_', ' ')} {_plain(value)}"
        for name, value in detail.items()
        if name != "reason" and value not in ("", None, [], {})
    )


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"({_plainly(value)})"
    if isinstance(value, list | tuple):
        return ", ".join(_plain(one) for one in value)
    if isinstance(value, float):
        return f"{value:.4g}"
    text = str(value)
    return text[:12] if len(text) == 64 and text.isalnum() else text
