"""The table of families: its rows are tested by this room and written to docs/models.md.

A new family is one row: docs/how-to/add-a-model.md.
"""

from __future__ import annotations

from tests.models.family_table import dense, experts, latent, state
from tests.models.family_table.row import Row

ROWS: tuple[Row, ...] = (*dense.ROWS, *experts.ROWS, *latent.ROWS, *state.ROWS)
NAMES = tuple(row.name for row in ROWS)
# Rows whose equalities are tested as users compile. Together they have every chain of operations
# that XLA compiles between the kernels of any row: tests/models/test_family_logits.py.
AS_USERS = (
    "qwen3_windows_tied",
    "gemma2",
    "phi3_longrope",
    "granite_tied",
    "cohere2",
    "glm4",
    "phi_2",
    "gpt2",
    "ministral3",
    "gpt_oss",
    "llama4",
    "deepseek_v3",
    "lfm2_conv",
    "mamba2_limits_tied",
    "granitemoehybrid_experts",
    "qwen3_next_experts",
)


def row_of(name: str) -> Row:
    """The row of that name."""
    return next(row for row in ROWS if row.name == name)
