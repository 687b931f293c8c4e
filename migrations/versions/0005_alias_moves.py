"""Where aliases pointed; those that are there begin their history with where they point."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

MOMENT = sa.DateTime(timezone=True)
BIG_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
BEGINNINGS = """
INSERT INTO alias_moves (alias, action, model_id, model_name, at)
SELECT aliases.alias, 'set', models.id, models.name, aliases.updated_at
FROM aliases JOIN models ON models.id = aliases.model_id
ORDER BY aliases.updated_at, aliases.alias
"""


def upgrade() -> None:
    op.create_table(
        "alias_moves",
        sa.Column("number", BIG_KEY, primary_key=True, autoincrement=True),
        sa.Column("alias", sa.String(100), nullable=False),
        sa.Column("action", sa.String(10), nullable=False),
        sa.Column("model_id", sa.String(40)),
        sa.Column("model_name", sa.String(100)),
        sa.Column("restores", sa.BigInteger()),
        sa.Column("at", MOMENT, nullable=False),
        sa.CheckConstraint("action IN ('set', 'rollback', 'remove')", name="alias_action"),
    )
    op.create_index("alias_move", "alias_moves", ["alias", "number"])
    op.execute(BEGINNINGS)


def downgrade() -> None:
    op.drop_table("alias_moves")
