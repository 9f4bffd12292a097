"""Alerts with their events, and trainings with what led to them."""

from alembic import op
from sqlalchemy import JSON, Column, Float, Integer, String

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "alerts",
        Column("key", String, primary_key=True),
        Column("endpoint", String, nullable=False, index=True),
        Column("phase", String, nullable=False),
        Column("state", JSON, nullable=False),
        Column("updated_at", Float, nullable=False),
    )
    op.create_table(
        "alert_events",
        Column("id", Integer, primary_key=True),
        Column("at", Float, nullable=False),
        Column("kind", String, nullable=False),
        Column("alert_key", String, nullable=False, index=True),
        Column("payload", JSON, nullable=False),
    )
    op.create_table(
        "trainings",
        Column("id", String, primary_key=True),
        Column("endpoint", String, nullable=False, index=True),
        Column("active_endpoint", String, unique=True),
        Column("phase", String, nullable=False),
        Column("trigger", JSON, nullable=False),
        Column("steps", JSON, nullable=False),
        Column("started_at", Float, nullable=False),
        Column("ended_at", Float),
        Column("reason", String, nullable=False),
    )
