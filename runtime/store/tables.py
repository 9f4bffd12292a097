"""The tables. Text, integers and JSON only, so that SQLite and PostgreSQL hold the same."""

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    text,
)

metadata = MetaData()

endpoints = Table(
    "endpoints",
    metadata,
    Column("name", String, primary_key=True),
    Column("generation", Integer, nullable=False),
    Column("primary_slot", String, nullable=False),
    Column("share", Integer, nullable=False),
)

slots = Table(
    "slots",
    metadata,
    Column("endpoint", String, ForeignKey("endpoints.name"), primary_key=True),
    Column("slot", String, primary_key=True),
    Column("model_name", String, nullable=False),
    Column("model_version", Integer, nullable=False),
)

transitions = Table(
    "transitions",
    metadata,
    Column("sequence", Integer, primary_key=True, autoincrement=False),
    Column("at", String, nullable=False),
    Column("endpoint", String, nullable=False, index=True),
    Column("generation", Integer, nullable=False),
    Column("actor", String, nullable=False),
    Column("action", String, nullable=False),
    Column("forced", Boolean, nullable=False),
    Column("detail", JSON, nullable=False),
    Column("previous_hash", String, nullable=False),
    Column("hash", String, nullable=False),
)

edge_acks = Table(
    "edge_acks",
    metadata,
    Column("edge_id", String, primary_key=True),
    Column("endpoint", String, primary_key=True),
    Column("generation", Integer, nullable=False),
    Column("at", Float, nullable=False),
)

replicas = Table(
    "replicas",
    metadata,
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

edge_limits = Table(
    "edge_limits",
    metadata,
    Column("endpoint", String, primary_key=True),
    Column("max_body_bytes", Integer, nullable=False),
    Column("max_ongoing_requests", Integer, nullable=False),
    Column("max_waiting_requests", Integer, nullable=False),
    Column("answer_timeout_s", Float, nullable=False),
    Column("may_sleep", Boolean, nullable=False),
)

data_versions = Table(
    "data_versions",
    metadata,
    Column("table_name", String, primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("uri", String, nullable=False),
    Column("num_rows", Integer, nullable=False),
    Column("fingerprint", String, nullable=False),
    Column("lineage", JSON, nullable=False),
    Column("created_at", String, nullable=False),
)

model_versions = Table(
    "model_versions",
    metadata,
    Column("name", String, primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("run_id", String, nullable=False),
    Column("bundle_uri", String, nullable=False),
    Column("bundle_sha256", String, nullable=False),
    Column("lineage", JSON, nullable=False),
    Column("created_at", String, nullable=False),
    UniqueConstraint("name", "bundle_sha256"),
)

aliases = Table(
    "aliases",
    metadata,
    Column("model_name", String, primary_key=True),
    Column("alias", String, primary_key=True),
    Column("version", Integer, nullable=False),
)

gates = Table(
    "gates",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", String, nullable=False),
    Column("holdout", String, nullable=False, index=True),
    Column("candidate", String, nullable=False),
    Column("champion", String),
    Column("verdict", String, nullable=False),
    Column("report", JSON, nullable=False),
)

steps = Table(
    "steps",
    metadata,
    Column("key", String, primary_key=True),
    Column("name", String, nullable=False),
    Column("outputs", JSON, nullable=False),
    Column("at", String, nullable=False),
)

leases = Table(
    "leases",
    metadata,
    Column("name", String, primary_key=True),
    Column("holder", String, nullable=False),
    Column("token", Integer, nullable=False),
    Column("expires_at", Float, nullable=False),
)

approvals = Table(
    "approvals",
    metadata,
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
PENDING = text("state = 'pending'")
Index(
    "one_pending_approval",
    approvals.c.kind,
    approvals.c.subject,
    unique=True,
    sqlite_where=PENDING,
    postgresql_where=PENDING,
)

subscriptions = Table(
    "subscriptions",
    metadata,
    Column("consumer", String, primary_key=True),
    Column("topic", String, primary_key=True),
)

outbox = Table(
    "outbox",
    metadata,
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
Index("outbox_by_consumer", outbox.c.consumer, outbox.c.id)

answers = Table(
    "answers",
    metadata,
    Column("key", String, primary_key=True),
    Column("request_sha256", String, nullable=False),
    Column("answer", JSON, nullable=False),
    Column("at", String, nullable=False),
)
