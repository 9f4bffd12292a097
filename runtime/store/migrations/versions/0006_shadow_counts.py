"""What replicas of the primary counted while they asked the canary in the shadow."""

from alembic import op
from sqlalchemy import JSON, Column, Float, ForeignKey, String

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.create_table(
        "shadow_counts",
        Column("rollout", String, ForeignKey("rollouts.id"), primary_key=True),
        Column("replica", String, primary_key=True),
        Column("at", Float, nullable=False),
        Column("counts", JSON, nullable=False),
    )
