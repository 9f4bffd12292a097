"""Replicas, leases, approvals, outbox and remembered answers."""

from alembic import op
from sqlalchemy import JSON, Column, Float, Integer, String, text

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "replicas",
        Column("replica_id", String, primary_key=True),
        Column("endpoint", String, nullable=False),
        Column("slot", String, nullable=False),
        Column("host", String, nullable=False),
        Column("port", Integer, nullable=False),
        Column("grpc_port", Integer),
        Column("bundle_sha256", String, nullable=False),
        Column("state", String, nullable=False),
        Column("at", Float, nullable=False),
    )
    op.create_table(
        "leases",
        Column("name", String, primary_key=True),
        Column("holder", String, nullable=False),
        Column("token", Integer, nullable=False),
        Column("expires_at", Float, nullable=False),
    )
    op.create_table(
        "approvals",
        Column("id", String, primary_key=True),
        Column("kind", String, nullable=False),
        Column("subject", String, nullable=False),
        Column("endpoint", String, nullable=False),
        Column("author", String, nullable=False),
        Column("detail", JSON, nullable=False),
        Column("requested_at", String, nullable=False),
        Column("state", String, nullable=False),
        Column("decided_by", String),
        Column("decided_at", String),
        Column("reason", String, nullable=False),
    )
    op.create_index(
        "one_pending_approval",
        "approvals",
        ["kind", "subject"],
        unique=True,
        sqlite_where=text("state = 'pending'"),
        postgresql_where=text("state = 'pending'"),
    )
    op.create_table(
        "subscriptions",
        Column("consumer", String, primary_key=True),
        Column("topic", String, primary_key=True),
    )
    op.create_table(
        "outbox",
        Column("id", Integer, primary_key=True),
        Column("consumer", String, nullable=False),
        Column("event_id", String, nullable=False),
        Column("topic", String, nullable=False),
        Column("payload", JSON, nullable=False),
        Column("created_at", Float, nullable=False),
        Column("num_attempts", Integer, nullable=False),
        Column("next_at", Float, nullable=False),
        Column("error", String),
        sqlite_autoincrement=True,
    )
    op.create_index("outbox_by_consumer", "outbox", ["consumer", "id"])
    op.create_table(
        "answers",
        Column("key", String, primary_key=True),
        Column("request_sha256", String, nullable=False),
        Column("answer", JSON, nullable=False),
        Column("at", String, nullable=False),
    )
