"""Adding hand-written examples to a dataset."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

from pydantic import ValidationError

from tunesmith.data.formats import holds_surrogate, join_input
from tunesmith.data.records import Dataset, Message, Row
from tunesmith.data.results import Example
from tunesmith.data.store import DatasetStore
from tunesmith.errors import EmptyInput, InvalidArgument
from tunesmith.workspace import Workspace


def add_examples(workspace: Workspace, dataset_id: str, examples: Sequence[Example | Mapping[str, Any]]) -> Dataset:
    """A new dataset: the rows of `dataset_id`, then `examples`. The old one stays as it is.

    In a dataset that is split, the new rows go to train.

    Raises:
        NotFound, InvalidArgument: as `DatasetStore.get`; an example with an unknown field, a
            wrong type, or an empty instruction or output (all are named).
        EmptyInput: no examples.
    """
    store = DatasetStore(workspace)
    parent = store.get(dataset_id)
    if not examples:
        raise EmptyInput("There are no examples to add.", next="Give at least one {instruction, output}.")
    added = _checked(examples)
    split = "train" if parent.splits.train or parent.splits.eval else None
    new_rows = (_row(example).model_copy(update={"split": split}) for example in added)
    return store.create(
        chain(store.rows(dataset_id), new_rows), name=parent.name, created_by="add_examples", parents=[dataset_id]
    )


def _checked(examples: Iterable[Example | Mapping[str, Any]]) -> list[Example]:
    good: list[Example] = []
    problems: list[str] = []
    for number, example in enumerate(examples):
        try:
            fields = example if isinstance(example, Mapping) else dict(example)
            checked = Example.model_validate(fields, strict=True)
        except ValidationError as error:
            problems += [
                f"examples[{number}].{'.'.join(map(str, entry['loc']))[:60]}: {entry['msg']}"
                for entry in error.errors()
            ]
            continue
        problems += [
            f"examples[{number}].{field} is empty"
            for field in ("instruction", "output", "rejected")
            if (text := getattr(checked, field)) is not None and not text.strip()
        ]
        problems += [
            f"examples[{number}].{field} holds a lone surrogate"
            for field, text in checked
            if text and holds_surrogate(text)
        ]
        good.append(checked)
    if problems:
        shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
        raise InvalidArgument(
            f"Examples cannot be added: {shown}.",
            next="Give each example as {instruction, output, input?, system?, rejected?}, all text.",
        )
    return good


def _row(example: Example) -> Row:
    messages = [
        Message(role="user", content=join_input(example.instruction, example.input)),
        Message(role="assistant", content=example.output),
    ]
    if example.system:
        messages.insert(0, Message(role="system", content=example.system))
    return Row(
        row_id="", messages=messages, rejected=example.rejected, meta={"input": example.input} if example.input else {}
    )
