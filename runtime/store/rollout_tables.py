"""The tables of rollouts: where each stands, what was counted and judged at every tick, and in the shadow."""

from sqlalchemy import JSON, Column, Float, ForeignKey, Integer, String, Table

from runtime.store.tables import metadata

rollouts = Table(
    "rollouts",
    metadata,
    Column("id", String, primary_key=True),
    Column("endpoint", String, nullable=False, index=True),
    Column("active_endpoint", String, unique=True),
    Column("revision", Integer, nullable=False),
    Column("phase", String, nullable=False),
    Column("step", Integer, nullable=False),
    Column("plan", JSON, nullable=False),
    Column("plan_name", String, nullable=False),
    Column("author", String, nullable=False),
    Column("canary_slot", String, nullable=False),
    Column("canary_model", String, nullable=False),
    Column("primary_model", String, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("outcome", String),
    Column("reason", String, nullable=False),
    Column("is_step_passed", Integer, nullable=False),
    Column("resumed_step", Integer),
    Column("created_at", Float, nullable=False),
    Column("phase_since", Float, nullable=False),
    Column("step_since", Float),
    Column("ended_at", Float),
    Column("changed_by", String, nullable=False),
    Column("changed_how", String, nullable=False),
    Column("changed_at", Float, nullable=False),
    Column("progress", JSON, nullable=False),
    Column("certificate", String),
)

analysis_ticks = Table(
    "analysis_ticks",
    metadata,
    Column("rollout", String, ForeignKey("rollouts.id"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("at", Float, nullable=False),
    Column("step", Integer, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("share", Integer, nullable=False),
    Column("counts", JSON, nullable=False),
    Column("verdict", JSON, nullable=False),
)

shadow_counts = Table(
    "shadow_counts",
    metadata,
    Column("rollout", String, ForeignKey("rollouts.id"), primary_key=True),
    Column("replica", String, primary_key=True),
    Column("at", Float, nullable=False),
    Column("counts", JSON, nullable=False),
)
