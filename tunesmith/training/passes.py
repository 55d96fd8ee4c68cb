"""How much goes through the model at a time, where that is less than the recipe says.

Set only when memory ran out. Nothing that is learned or measured depends on it: sums of the same numbers are made in
more parts.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Passes(BaseModel):
    """What one forward pass may hold. Kept in checkpoints, so that a run which goes on does not run into it again.

    Attributes:
        packed_tokens: of a packed sequence, whose rows are then taken in parts; never fewer than the longest row.
            None: whole sequences.
        evaluation_rows: held-out rows. None: as many as the recipe trains in a pass.
    """

    model_config = ConfigDict(extra="forbid")

    packed_tokens: int | None = Field(default=None, ge=1)
    evaluation_rows: int | None = Field(default=None, ge=1)
