"""Endpoints with their audit chain, and what was built from what."""

from alembic import op
from sqlalchemy import JSON, Boolean, Column, Float, ForeignKey, Integer, String, UniqueConstraint

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "endpoints",
        Column("name", String, primary_key=True),
        Column("generation", Integer, nullable=False),
        Column("primary_slot", String, nullable=False),
        Column("share", Integer, nullable=False),
    )
    op.create_table(
        "slots",
        Column("endpoint", String, ForeignKey("endpoints.name"), primary_key=True),
        Column("slot", String, primary_key=True),
        Column("model_name", String, nullable=False),
        Column("model_version", Integer, nullable=False),
    )
    op.create_table(
        "transitions",
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
    op.create_table(
        "edge_acks",
        Column("edge_id", String, primary_key=True),
        Column("endpoint", String, primary_key=True),
        Column("generation", Integer, nullable=False),
        Column("at", Float, nullable=False),
    )
    op.create_table(
        "data_versions",
        Column("table_name", String, primary_key=True),
        Column("version", Integer, primary_key=True, autoincrement=False),
        Column("uri", String, nullable=False),
        Column("num_rows", Integer, nullable=False),
        Column("fingerprint", String, nullable=False),
        Column("lineage", JSON, nullable=False),
        Column("created_at", String, nullable=False),
    )
    op.create_table(
        "model_versions",
        Column("name", String, primary_key=True),
        Column("version", Integer, primary_key=True, autoincrement=False),
        Column("run_id", String, nullable=False),
        Column("bundle_uri", String, nullable=False),
        Column("bundle_sha256", String, nullable=False),
        Column("lineage", JSON, nullable=False),
        Column("created_at", String, nullable=False),
        UniqueConstraint("name", "bundle_sha256"),
    )
    op.create_table(
        "aliases",
        Column("model_name", String, primary_key=True),
        Column("alias", String, primary_key=True),
        Column("version", Integer, nullable=False),
    )
    op.create_table(
        "gates",
        Column("id", Integer, primary_key=True),
        Column("at", String, nullable=False),
        Column("holdout", String, nullable=False, index=True),
        Column("candidate", String, nullable=False),
        Column("champion", String),
        Column("verdict", String, nullable=False),
        Column("report", JSON, nullable=False),
    )
    op.create_table(
        "steps",
        Column("key", String, primary_key=True),
        Column("name", String, nullable=False),
        Column("outputs", JSON, nullable=False),
        Column("at", String, nullable=False),
    )
