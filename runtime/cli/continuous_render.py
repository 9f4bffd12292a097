"""Continuous training drawn for a terminal. Nothing here computes or asks."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

if TYPE_CHECKING:
    from runtime.pipeline.continuous import Looked
    from runtime.pipeline.continuous_progress import StepProgress
    from runtime.pipeline.continuous_status import Chain, ContinuousStatus
    from runtime.store.trainings import Training

PHASE_STYLE = {"running": "cyan", "done": "green", "refused": "yellow", "failed": "red"}


def looked(found: "Looked") -> RenderableType:
    if found.training is None:
        return Text(f"nothing to do: {found.why}")
    return training_tree(found.training)


def status_tables(status: "ContinuousStatus") -> list[RenderableType]:
    budget = f"{status.in_week} of {status.max_runs_per_week} trainings of this week"
    head = f"a look now starts a training: {status.why}" if status.would_start else status.why
    parts: list[RenderableType] = [Text(f"{status.endpoint}: {head} ({budget})", style="bold")]
    if not status.is_looked_after:
        parts.append(Text("nobody looks: `teal continuous run` does, until it is interrupted", style="yellow"))
    if status.reasons:
        table = Table("trigger", "reason", "what it says", box=None)
        for one in status.reasons:
            table.add_row(one.trigger, one.id, describe(one.evidence))
        parts.append(table)
    parts += [chain_tree(chain) for chain in status.chains]
    if status.chains:
        parts.append(Text("`teal continuous history` has all of them", style="dim"))
    return parts


def chain_tree(chain: "Chain") -> Tree:
    tree = training_tree(chain.training)
    if chain.step is not None:
        tree.add(Text(f"{chain.step}: under way{_progress(chain.progress)}", style="cyan"))
    if chain.rollout is not None:
        tree.add(f"{chain.rollout.id} is {chain.rollout.phase}: {chain.rollout.reason}")
    if chain.remedy is not None:
        tree.add(Text(chain.remedy, style="yellow"))
    return tree


def training_tree(training: "Training") -> Tree:
    """What started it, what each step gave, how it ended: from the alarm to the version."""
    head = Text(f"training {training.id} of {training.endpoint}: ", style="bold")
    head.append(training.phase, style=PHASE_STYLE[training.phase])
    tree = Tree(head)
    trigger = training.trigger
    because = tree.add(f"{_moment(training.started_at)} because of {trigger['trigger']}, {trigger['id']}")
    if said := describe(trigger.get("evidence", {})):
        because.add(said)
    for name, outputs in training.steps.items():
        tree.add(f"{name}: {_step(name, outputs)}")
    if training.reason and training.phase != "done":  # then it is what the last step gave
        tree.add(Text(training.reason, style=PHASE_STYLE[training.phase]))
    return tree


def history_table(chains: "Sequence[Chain]") -> RenderableType:
    if not chains:
        return Text("no training yet; `teal continuous status` says what would start one")
    table = Table("started", "because of", "data", "run", "model", "rollout", "training", box=None)
    for chain in chains:
        training, steps = chain.training, chain.training.steps
        rollout = "-" if chain.rollout is None else f"{chain.rollout.id} {chain.rollout.phase}"
        table.add_row(
            _moment(training.started_at),
            f"{training.trigger['trigger']}, {training.trigger['id']}",
            str(steps.get("data", {}).get("label", "-")),
            str(steps.get("sweep", {}).get("run_id", "-"))[:12],
            str(steps.get("register", {}).get("model", "-")),
            rollout,
            Text(training.phase, style=PHASE_STYLE[training.phase]),
        )
    return table


def describe(evidence: Mapping[str, Any]) -> str:
    """An alert's evidence as a sentence; another trigger's as its values."""
    if "rule" not in evidence:
        return ", ".join(f"{name} {_value(value)}" for name, value in evidence.items() if value not in (None, ""))
    subject = " ".join(str(evidence[name]) for name in ("slot", "model_version") if evidence.get(name))
    text = f"{evidence['rule']}{f' of {subject}' if subject else ''}: {evidence['signal']} {_value(evidence['value'])}"
    text += f" against {_value(evidence['threshold'])}"
    notes = [str(evidence[name]) for name in ("detail", "impact") if evidence.get(name)]
    if evidence.get("fired_at") is not None:
        notes.append(f"fired {_moment(evidence['fired_at'])}")
    return "; ".join([text, *notes])


def _progress(progress: "StepProgress | None") -> str:
    if progress is None:
        return ""
    share = f" {progress.done} of {progress.total}" if progress.total else ""
    return f", {progress.text}{share} at {_moment(progress.at)[11:]}"


def _step(name: str, outputs: Mapping[str, Any]) -> str:
    if name == "data":
        served = outputs["served"]
        if served is None:
            return f"{outputs['label']}, the prepared rows alone"
        base = f"{served['base_table']}@{served['base_version']}"
        return f"{outputs['label']}: {base} and {served['num_rows']:,} served rows with labels"
    if name == "sweep":
        metrics = ", ".join(f"{key} {outputs['metrics'][key]:.4f}" for key in ("auc", "log_loss"))
        return f"run {outputs['run_id']}, {outputs['family']}, {metrics}"
    if name == "register":
        return "; ".join([outputs["model"], *outputs["reasons"][:1]])
    if name == "deploy":
        return f"slot {outputs['slot']}" + (", the primary" if outputs["is_primary"] else "")
    return str(outputs["state"])


def _value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")
