"""What all records that leave a room have in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """A record whose fields are all known: an unexpected field is an error, not a surprise."""

    model_config = ConfigDict(extra="forbid")
