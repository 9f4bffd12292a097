"""The tables. Text, integers and JSON only, so that SQLite and PostgreSQL hold the same."""

from sqlalchemy import JSON, Boolean, Column, Float, ForeignKey, Integer, MetaData, String, Table, UniqueConstraint

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

data_versions = Table(
    "data_versions",
    metadata,
    Column("table_name", String, primary_key=True),
    Column("version", Integer, primary_key=True),
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
    Column("version", Integer, primary_key=True),
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
