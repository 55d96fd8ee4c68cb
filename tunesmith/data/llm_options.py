"""The nested arguments `llm` of extract_qa and `llm_judge` of score_dataset, strict in every name and value."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tunesmith.errors import InvalidArgument


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    model: str = Field(min_length=1, max_length=500, description="A model reference; with base_url also a bare name.")
    base_url: str | None = Field(default=None, max_length=500, description="Of an OpenAI-compatible endpoint.")


class LlmOptions(_Strict):
    """Which model makes pairs, and how many."""

    pairs_per_section: int = Field(
        default=3, ge=1, le=20, description="At most, of a section; of one longer than a window, from each window."
    )


class JudgeOptions(_Strict):
    """Which model rates rows, and which rows."""

    max_rows: int = Field(default=100, ge=1, le=5000, description="Rows rated; chosen by seed when there are more.")
    seed: int = Field(default=42, ge=0, le=2**31 - 1, description="Of the choice of rows and of the intervals.")


Options = TypeVar("Options", bound=_Strict)


def read_options(kind: type[Options], argument: str, values: Mapping[str, Any]) -> Options:
    """The options from plain JSON, every problem told at once.

    Args:
        argument: its name, for messages.

    Raises:
        InvalidArgument: unknown names (with the nearest valid one), wrong types, values out of range.
    """
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        names = list(kind.model_fields)
        problems = "; ".join(_problem(dict(detail), argument, names) for detail in error.errors())
        raise InvalidArgument(
            f"{problems[:1000]}.", next=f"Correct that and call again; {argument} takes {', '.join(names)}."
        ) from error


def _problem(detail: dict[str, Any], argument: str, names: list[str]) -> str:
    name = str(detail["loc"][0]) if detail["loc"] else ""
    where = f"{argument}.{name[:60]}"
    if detail["type"] == "extra_forbidden":
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.0)[0]
        return f"{where} is not known (did you mean {near!r}?)"
    if detail["type"] == "missing":
        return f"{where} is missing"
    return f"{where}: {detail['msg'][0].lower()}{detail['msg'][1:]}"
