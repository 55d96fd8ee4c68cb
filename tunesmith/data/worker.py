"""The process that reads notes, scores and cleans: `python -m tunesmith.data.worker RUN_DIR`.

Being the root of a process it may know the rooms that `data` may not: it builds the
token counter of a base model, and what asks a language model, from `models`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from tunesmith.data.records import Message
from tunesmith.errors import BadInput
from tunesmith.work import Work, run_worker
from tunesmith.workspace import Workspace

if TYPE_CHECKING:
    from tunesmith.data.llm_asking import Ask, Model
    from tunesmith.models.endpoints import ChatEndpoint, CompletionEndpoint

# A model served here: tokens of a request and its answer together (a Han character can take three), and requests at
# once. Its memory grows with both.
LOCAL_CONTEXT, LOCAL_SLOTS, LOCAL_WINDOW_CHARS = 6144, 2, 1500
# Ollama cuts prompts off, silently, at 4,096 tokens unless it is told otherwise: windows keep well below.
REMOTE_CONCURRENCY, REMOTE_WINDOW_CHARS = 4, 3000
# What training cuts at unless its recipe says otherwise.
DEFAULT_MAX_LENGTH = 2048


def extract(work: Work) -> BaseModel:
    """Kind `extract`: notes become a dataset. Arguments as `extract_qa`, and ollama_host?."""
    from tunesmith.data.extraction import DEFAULT_MAX_ANSWER_CHARS, extract
    from tunesmith.data.llm_extraction import PairsByModel
    from tunesmith.data.llm_options import LlmOptions, read_options

    args = dict(work.args)
    source, llm, ollama_host = args.pop("source"), args.pop("llm", None), args.pop("ollama_host", None)
    if llm is None:
        return extract(work.workspace, source, **args, on_progress=_progress(work))
    options = read_options(LlmOptions, "llm", llm)
    with _model(work, options.model, options.base_url, ollama_host) as model:
        longest = args.get("max_answer_chars", DEFAULT_MAX_ANSWER_CHARS)
        pairs = PairsByModel(model, pairs=options.pairs_per_section, max_answer_chars=longest)
        return extract(work.workspace, source, **args, by_model=pairs, on_progress=_progress(work))


def score(work: Work) -> BaseModel:
    """Kind `score`. Arguments: dataset_id, base_model?, against?, max_length? (tokens), llm_judge?, ollama_host?."""
    from tunesmith.data.llm_judging import judge
    from tunesmith.data.llm_options import JudgeOptions, read_options
    from tunesmith.data.scoring import score

    args = work.args
    options = read_options(JudgeOptions, "llm_judge", args["llm_judge"]) if args.get("llm_judge") else None
    base_model = args.get("base_model")
    counter = None if base_model is None else _token_counter(work.workspace, base_model)
    found = score(
        work.workspace,
        args["dataset_id"],
        against=args.get("against"),
        count_tokens=counter,
        max_length=None if counter is None else args.get("max_length") or DEFAULT_MAX_LENGTH,
        on_progress=_progress(work),
    )
    if options is None:
        return found
    with _model(work, options.model, options.base_url, args.get("ollama_host")) as model:
        return judge(
            work.workspace,
            args["dataset_id"],
            found,
            model,
            max_rows=options.max_rows,
            seed=options.seed,
            on_progress=_progress(work),
        )


def clean(work: Work) -> BaseModel:
    """Kind `clean`. Arguments as `clean_dataset`; what is missing has its default."""
    from tunesmith.data.cleaning import clean

    args: dict[str, Any] = dict(work.args)
    return clean(work.workspace, args.pop("dataset_id"), **args, on_progress=_progress(work))


def import_rows(work: Work) -> BaseModel:
    """Kind `import`: a large file becomes a dataset. Arguments as `import_dataset`."""
    from tunesmith.data.importing import import_dataset

    args: dict[str, Any] = dict(work.args)
    return import_dataset(work.workspace, args.pop("source"), **args, on_progress=_progress(work))


def write_rows(work: Work) -> BaseModel:
    """Kind `write`: a large dataset is written to a file. Arguments as `export_dataset`."""
    from tunesmith.data.exporting import export_dataset

    args: dict[str, Any] = dict(work.args)
    return export_dataset(work.workspace, args.pop("dataset_id"), **args, on_progress=_progress(work))


def split(work: Work) -> BaseModel:
    """Kind `split`: a large dataset is split. Arguments as `split_dataset`."""
    from tunesmith.data.splitting import split

    args: dict[str, Any] = dict(work.args)
    work.progress("Comparing rows")
    return split(work.workspace, args.pop("dataset_id"), **args)


def _progress(work: Work) -> Callable[[str, int, int], None]:
    def tell(message: str, done: int, total: int) -> None:
        work.check_cancelled()
        work.progress(message, step=done, total_steps=total)

    return tell


@contextmanager
def _model(work: Work, model: str, base_url: str | None, ollama_host: str | None) -> Iterator[Model]:
    """A model of any kind as the data room asks it, for as long as the block lasts."""
    from tunesmith.data.llm_asking import Model
    from tunesmith.models.answering import answering, answering_reference

    reference = answering_reference(work.workspace, model, base_url)
    work.progress(f"Starting {reference.name}")
    with answering(
        work.workspace,
        reference,
        context=LOCAL_CONTEXT,
        slots=LOCAL_SLOTS,
        log=work.run_dir / "served.log",
        ollama_host=ollama_host,
    ) as one:
        yield Model(
            ask=ask_of(one.endpoint, one.died),
            identity=one.identity,
            name=one.served,
            concurrency=LOCAL_SLOTS if one.local else REMOTE_CONCURRENCY,
            window_chars=LOCAL_WINDOW_CHARS if one.local else REMOTE_WINDOW_CHARS,
            check=work.check_cancelled,
        )


def ask_of(endpoint: ChatEndpoint | CompletionEndpoint, died: Callable[[], str | None] = lambda: None) -> Ask:
    """An endpoint as the data room asks it: always the likeliest answer, as JSON.

    Args:
        died: how what serves it ended, None while it runs.
    """
    from tunesmith.data.llm_asking import LlmReply, NoAnswer
    from tunesmith.models.endpoints import AskFailed, Draw

    def ask(messages: Sequence[Message], *, schema: Mapping[str, Any], max_tokens: int, seed: int) -> LlmReply:
        try:
            reply = endpoint.ask(messages, Draw(0.0, max_tokens, seed), schema)
        except AskFailed as error:
            gone = died()
            raise NoAnswer(
                gone or str(error),
                passing=error.passing and gone is None,
                slow=error.timed_out,
                retry_after_s=error.retry_after_s,
            ) from error
        return LlmReply(reply.text, reply.prompt_tokens, reply.tokens)

    return ask


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
    run_worker(
        {
            "extract": extract,
            "score": score,
            "clean": clean,
            "import": import_rows,
            "split": split,
            "write": write_rows,
        }
    )
