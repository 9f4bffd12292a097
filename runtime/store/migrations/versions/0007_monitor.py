"""What the monitor remembers: counts as compressed bytes, by endpoint."""

from alembic import op
from sqlalchemy import JSON, BigInteger, Column, Float, Integer, LargeBinary, String

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.create_table(
        "monitor_shards",
        Column("shard", Integer, primary_key=True, autoincrement=False),
        Column("epoch", Integer, nullable=False),
        Column("state", JSON, nullable=False),
    )
    op.create_table(
        "monitor_endpoints",
        Column("endpoint", String, primary_key=True),
        Column("through", Integer, nullable=False),
        Column("state", LargeBinary, nullable=False),
    )
    op.create_table(
        "monitor_journal",
        Column("endpoint", String, primary_key=True),
        Column("part", Integer, primary_key=True, autoincrement=False),
        Column("counts", LargeBinary, nullable=False),
    )
    op.create_table(
        "monitor_ticks",
        Column("endpoint", String, primary_key=True),
        Column("number", Integer, primary_key=True, autoincrement=False),
        Column("since", Float, nullable=False),
        Column("until", Float, nullable=False),
        Column("counts", LargeBinary, nullable=False),
    )
    op.create_table(
        "monitor_windows",
        Column("endpoint", String, primary_key=True),
        Column("level", String, primary_key=True),
        Column("start", BigInteger, primary_key=True, autoincrement=False),
        Column("counts", LargeBinary, nullable=False),
    )
