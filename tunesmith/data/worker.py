"""The process that reads notes, scores and cleans: `python -m tunesmith.data.worker RUN_DIR`.

Being the root of a process it may know the rooms that `data` may not: it builds the
token counter of a base model from `models`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import BaseModel

from tunesmith.data.records import Message
from tunesmith.errors import BadInput, NotSupported
from tunesmith.work import Work, run_worker
from tunesmith.workspace import Workspace

# What training cuts at unless its recipe says otherwise.
DEFAULT_MAX_LENGTH = 2048


def extract(work: Work) -> BaseModel:
    """Kind `extract`: notes become a dataset. Arguments as `extract_qa`."""
    from tunesmith.data.extraction import extract

    args = dict(work.args)
    if args.pop("llm", None):
        raise NotSupported("llm: extracting with a model is not supported yet.", next="Extract without llm.")
    return extract(work.workspace, args.pop("source"), **args, on_progress=_progress(work))


def score(work: Work) -> BaseModel:
    """Kind `score`. Arguments: dataset_id, base_model?, against?, max_length? (tokens)."""
    from tunesmith.data.scoring import score

    args = work.args
    if args.get("llm_judge"):
        raise NotSupported(
            "llm_judge: judging rows with a model is not supported yet.", next="Score without llm_judge."
        )
    base_model = args.get("base_model")
    counter = None if base_model is None else _token_counter(work.workspace, base_model)
    return score(
        work.workspace,
        args["dataset_id"],
        against=args.get("against"),
        count_tokens=counter,
        max_length=None if counter is None else args.get("max_length") or DEFAULT_MAX_LENGTH,
        on_progress=_progress(work),
    )


def clean(work: Work) -> BaseModel:
    """Kind `clean`. Arguments as `clean_dataset`; what is missing has its default."""
    from tunesmith.data.cleaning import clean

    args: dict[str, Any] = dict(work.args)
    return clean(work.workspace, args.pop("dataset_id"), **args, on_progress=_progress(work))


def _progress(work: Work) -> Callable[[str, int, int], None]:
    def tell(message: str, done: int, total: int) -> None:
        work.check_cancelled()
        work.progress(message, step=done, total_steps=total)

    return tell


def _token_counter(workspace: Workspace, base_model: str) -> Callable[[list[Message]], int]:
    """Tokens of a conversation as training counts them: rendered by the base's own template."""
    from tunesmith.models.bases import prompt_format_for, tokenizer_for
    from tunesmith.models.rendering import render_row

    tokenizer = tokenizer_for(workspace, base_model)
    prompt_format = prompt_format_for(workspace, base_model)

    def count(messages: list[Message]) -> int:
        try:
            return render_row(messages, prompt_format, tokenizer).tokens or 0
        except BadInput:
            # Turns that the template refuses: format_inconsistent names the row; its text still has a length.
            return sum(len(tokenizer.encode(each.content, add_special_tokens=False).ids) for each in messages)

    return count


if __name__ == "__main__":
    run_worker({"extract": extract, "score": score, "clean": clean})
