"""What an edge must know of each endpoint's serving settings."""

from alembic import op
from sqlalchemy import Boolean, Column, Float, Integer, String

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.create_table(
        "edge_limits",
        Column("endpoint", String, primary_key=True),
        Column("max_body_bytes", Integer, nullable=False),
        Column("max_ongoing_requests", Integer, nullable=False),
        Column("max_waiting_requests", Integer, nullable=False),
        Column("answer_timeout_s", Float, nullable=False),
        Column("may_sleep", Boolean, nullable=False),
    )
