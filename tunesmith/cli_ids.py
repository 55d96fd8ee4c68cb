"""Ids as people give them: by a few letters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tunesmith.errors import InvalidArgument, NotFound
from tunesmith.workspace import KINDS, check_id

MOST_NAMED = 5  # candidates that an ambiguous id is answered with
LISTINGS = {"run": "tunesmith runs list", "ds": "tunesmith data list", "cmp": "tunesmith comparisons list"}


def find(prefix: str, text: str, ids: Sequence[str], place: Path) -> str:
    """The id meant by `text`: an id, or letters with which exactly one begins or ends.

    Args:
        prefix: run, ds or cmp.
        ids: those there are.
        place: the workspace, for messages.

    Raises:
        InvalidArgument: an id of something else, or several fit.
        NotFound: none fits.
    """
    given = text.strip().lower()
    letters = given.removeprefix(f"{prefix}_")
    if text.startswith(tuple(f"{other}_" for other in KINDS if other != prefix)):
        check_id(prefix, text)
    if f"{prefix}_{letters}" in ids:
        return f"{prefix}_{letters}"
    # "run_" alone begins every id; with it, no end of an id can be meant.
    fitting = [
        one
        for one in ids
        if letters and (one.startswith(f"{prefix}_{letters}") or (letters == given and one.endswith(letters)))
    ]
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:
        raise NotFound(
            f"There is no {KINDS[prefix]} {text[:60]!r} in {place}.", next=f"See what there is: {LISTINGS[prefix]}."
        )
    more = f" and {len(fitting) - MOST_NAMED} more" if len(fitting) > MOST_NAMED else ""
    raise InvalidArgument(
        f"{text[:60]!r} could be {', '.join(fitting[:MOST_NAMED])}{more}.", next="Give more of its letters."
    )
