"""Principals and the hashes of their tokens."""

from alembic import op
from sqlalchemy import JSON, Column, ForeignKey, Integer, String

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_table(
        "principals",
        Column("name", String, primary_key=True),
        Column("roles", JSON, nullable=False),
        Column("endpoints", JSON),
        Column("rate", Integer),
        Column("created_at", String, nullable=False),
    )
    op.create_table(
        "tokens",
        Column("id", String, primary_key=True),
        Column("principal", String, ForeignKey("principals.name"), nullable=False, index=True),
        Column("sha256", String, nullable=False, unique=True),
        Column("created_at", String, nullable=False),
        Column("created_by", String, nullable=False),
        Column("expires_at", String),
        Column("revoked_at", String),
    )
