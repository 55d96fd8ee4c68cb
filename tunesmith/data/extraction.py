"""Notes to examples: every section of every file becomes examples, or a skip with its reason."""

from __future__ import annotations

import pkgutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import IO, Any

from tunesmith.data import strategies as strategy_modules
from tunesmith.data.candidates import AskIn, Candidate, View
from tunesmith.data.documents import Document, SkippedFile, endings, find, printable, read
from tunesmith.data.extraction_records import MAX_LISTED, ExtractResult, FileCount, FileSkip, SectionCount, SectionSkip
from tunesmith.data.llm_extraction import MATERIAL, STRATEGY, PairsByModel
from tunesmith.data.records import Row
from tunesmith.data.sections import outline
from tunesmith.data.skipping import reason_for
from tunesmith.data.store import DatasetStore
from tunesmith.data.text import comparable
from tunesmith.errors import EmptyInput, InvalidArgument
from tunesmith.workspace import Workspace

DEFAULT_STRATEGIES = ("sections", "faq", "docstrings", "reflections", "definitions", "tables")
DEFAULT_MAX_ANSWER_CHARS = 1500
MIN_MAX_ANSWER_CHARS = 100
SKIPPED_FILE = "skipped.jsonl"
REPEATED = "says what an earlier section says"
AMBIGUOUS = "its question is asked elsewhere with another answer, and nothing tells them apart"

Find = Callable[[View], list[Candidate]]


@dataclass(frozen=True)
class _Manner:
    """How to look for examples: strategies in the order in which they work, language of questions, longest answer."""

    finders: Sequence[tuple[str, Find]]
    language: AskIn
    max_chars: int
    model: PairsByModel | None


# What was done, how many files, of how many.
OnProgress = Callable[[str, int, int], None]


def extract(
    workspace: Workspace,
    source: str,
    *,
    strategies: Sequence[str] = DEFAULT_STRATEGIES,
    name: str | None = None,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    language: AskIn = "auto",
    max_answer_chars: int = DEFAULT_MAX_ANSWER_CHARS,
    by_model: PairsByModel | None = None,
    on_progress: OnProgress | None = None,
) -> ExtractResult:
    """Make a dataset of the notes in a file or folder. The same notes give the same rows, byte for byte.

    Args:
        source: a file or folder under the allowed roots.
        strategies: names of modules in `data/strategies/`; at least one, unless there is a model.
        name: of the dataset; default: the name of the file or folder.
        include, exclude: globs over paths relative to the folder; `exclude` wins.
        language: of the questions: `zh`, `en`, or `auto` for that of each answer.
        max_answer_chars: no answer is longer; from 100.
        by_model: makes pairs too, of every section.
        on_progress: called after each file; may raise to stop. Nothing is left behind then but a model's answers.

    Raises:
        InvalidArgument: an unknown strategy, none, or `max_answer_chars` below 100.
        NotFound, PathRefused: as `AllowedRoots.resolve`.
        BadInput: `source` is a file of another kind.
        EmptyInput: no notes there, or no example in them; says why.
        ServiceFailed: the model gave no usable answer at all.
    """
    finders = [] if by_model is not None and not strategies else _finders(strategies)
    manner = _Manner(finders, language, max_answer_chars, by_model)
    if language not in ("auto", "zh", "en"):
        raise InvalidArgument(f"language is {language!r}.", next="Use auto, zh or en.")
    if max_answer_chars < MIN_MAX_ANSWER_CHARS:
        raise InvalidArgument(
            f"max_answer_chars is {max_answer_chars}; an answer needs room for a paragraph.",
            next=f"Use {MIN_MAX_ANSWER_CHARS} or more (1500 by default).",
        )
    files = find(workspace, source, include or (), exclude or ())
    tally = _Tally()
    with tempfile.TemporaryFile(dir=workspace.cache) as sections:
        for document in _read_all(workspace, files, tally, on_progress):
            _write_sections(document, manner, sections, tally)
        _refuse_nothing_read(source, tally)
        if by_model is not None:
            by_model.ask(workspace.cache, _records(sections), on_progress or (lambda _message, _done, _total: None))
        rows = _settle(sections, tally, by_model)
        first = next(rows, None)
        if first is None:
            raise _no_example(source, tally)
        dataset = DatasetStore(workspace).create(
            chain((first,), rows),
            name=name or printable(workspace.roots.resolve(source).name),
            created_by="extract_qa",
            extra_files={SKIPPED_FILE: tally.skipped_jsonl(by_model)},
        )
    return tally.result(dataset, strategies, by_model)


def strategy_names() -> list[str]:
    """The strategies there are, by name."""
    return sorted(module.name for module in pkgutil.iter_modules(strategy_modules.__path__))


def _finders(names: Sequence[str]) -> list[tuple[str, Find]]:
    """The strategies of those names in the order in which they work."""
    known = strategy_names()
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        what = f"There is no strategy {unknown[0]!r}" if unknown else "No strategy was named"
        raise InvalidArgument(f"{what}.", next=f"Use one or more of: {', '.join(known)}.")
    modules = {name: import_module(f"{strategy_modules.__name__}.{name}") for name in names}
    return [(name, module.find) for name, module in sorted(modules.items(), key=lambda pair: pair[1].PRIORITY)]


class _Tally:
    """What was read and skipped, gathered on the way; what is asked about by digest, for what is asked about twice."""

    def __init__(self) -> None:
        self.files_read = 0
        self.files_skipped: list[SkippedFile] = []
        self.sections_total = 0
        self.sections_used = 0
        self.shortened = 0
        self.sections_skipped: list[SectionSkip] = []
        self.reasons: Counter[str] = Counter()
        self._section_lines = bytearray()
        self.by_strategy: Counter[str] = Counter()
        self.about_once: set[int] = set()
        self.about_twice: set[int] = set()
        self.said: set[int] = set()
        self.used: set[int] = set()
        self.rows = 0

    def note(self, abouts: Iterable[int]) -> None:
        """Remember what is asked about, and what is asked about more than once."""
        for about in abouts:
            (self.about_twice if about in self.about_once else self.about_once).add(about)

    def skip_section(self, path: str, lines: Sequence[int], reason: str) -> None:
        """Only the first are kept as they are; a big folder may have a hundred thousand."""
        if len(self.sections_skipped) < MAX_LISTED:
            self.sections_skipped.append(SectionSkip(path=path, lines=(lines[0], lines[1]), reason=reason))
        self.reasons[reason] += 1
        self._section_lines += _skip_line(path, lines[0], lines[1], reason)

    def skipped_jsonl(self, by_model: PairsByModel | None) -> Iterator[bytes]:
        """Every skip, one JSON object a line: files with null lines, then sections, then what a model failed at.

        To be taken after the rows: only then is it known which sections gave none.
        """
        for skip in self.files_skipped:
            yield _skip_line(skip.path, None, None, skip.reason)
        yield bytes(self._section_lines)
        for path, lines, why in by_model.skips if by_model is not None else ():
            yield _skip_line(path, lines[0], lines[1], why)

    def result(self, dataset: Any, strategies: Sequence[str], by_model: PairsByModel | None) -> ExtractResult:
        names = strategies if by_model is None else (*strategies, STRATEGY)
        files = [FileSkip(path=skip.path, reason=skip.reason) for skip in self.files_skipped[:MAX_LISTED]]
        return ExtractResult(
            dataset=dataset,
            by_strategy={name: self.by_strategy[name] for name in names},
            llm=by_model.result() if by_model is not None else None,
            sections=SectionCount(
                total=self.sections_total,
                used=self.sections_used,
                shortened=self.shortened,
                skipped=self.sections_skipped,
                skipped_total=self.reasons.total(),
                skipped_left_out=self.reasons.total() - len(self.sections_skipped),
            ),
            files=FileCount(
                read=self.files_read,
                skipped=files,
                skipped_total=len(self.files_skipped),
                skipped_left_out=max(0, len(self.files_skipped) - MAX_LISTED),
            ),
        )


def _read_all(
    workspace: Workspace,
    files: Sequence[tuple[Path, str] | SkippedFile],
    tally: _Tally,
    on_progress: OnProgress | None,
) -> Iterator[Document]:
    """The documents one after another; one is in memory at a time."""
    wanted = [file for file in files if not isinstance(file, SkippedFile)]
    tally.files_skipped = [file for file in files if isinstance(file, SkippedFile)]
    for number, (path, relative) in enumerate(wanted, start=1):
        document = read(workspace, path, relative)
        if isinstance(document, SkippedFile):
            tally.files_skipped.append(document)
        else:
            tally.files_read += 1
            yield document
        if on_progress:
            on_progress(f"Read {relative}", number, len(wanted))
    tally.files_skipped.sort(key=lambda skip: skip.path)


def _write_sections(document: Document, manner: _Manner, sections: IO[bytes], tally: _Tally) -> None:
    """First pass: what each section offers, into a temporary file."""
    import orjson

    empty = True
    for record in _of_document(document, manner):
        empty = False
        sections.write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))
        tally.note(_digest(offer["about"]) for offer in record["offers"])
    if empty:
        tally.files_skipped.append(SkippedFile(document.path, "no text in it"))


def _of_document(document: Document, manner: _Manner) -> Iterator[dict[str, Any]]:
    """What each section with a body offers, as a record for the temporary file."""
    structure = outline(document)
    title = structure.title or _title_of(document.path)
    for section in structure.sections:
        view = View(section, title, document.text, manner.language, manner.max_chars)
        offers = _offers(view, manner)
        shown = manner.model.material(view) if manner.model is not None else None
        yield {
            "path": document.path,
            "sha256": document.sha256,
            "lines": [section.first_line, section.last_line],
            "reason": "" if offers or (shown and not manner.finders) else reason_for(section, manner.max_chars),
            "offers": offers,
            MATERIAL: shown,
        }


def _title_of(path: str) -> str:
    """ "notes/day-01_first steps.md" → "day 01 first steps"."""
    stem = path.rsplit("/", 1)[-1].rsplit(".", 1)[0]
    return " ".join(stem.replace("-", " ").replace("_", " ").split())


def _offers(view: View, manner: _Manner) -> list[dict[str, Any]]:
    offers: list[dict[str, Any]] = []
    for name, finder in manner.finders:
        found = finder(view)
        for candidate in found:
            view.taken |= candidate.blocks
            view.alone |= candidate.blocks if candidate.alone else frozenset()
            offers.append(
                {
                    "strategy": name,
                    "about": f"{name}\x1f{candidate.about}",
                    "questions": candidate.questions,
                    "answer": candidate.answer,
                    "lines": [candidate.first_line, candidate.last_line],
                    "shortened": candidate.shortened,
                }
            )
    return offers


def _records(sections: IO[bytes]) -> Iterator[dict[str, Any]]:
    import orjson

    sections.seek(0)
    for line in sections:
        yield orjson.loads(line)


def _settle(sections: IO[bytes], tally: _Tally, by_model: PairsByModel | None) -> Iterator[Row]:
    """Second pass: one question for each offer. One that would be asked twice names its surroundings."""
    for number, record in enumerate(_records(sections)):
        if by_model is not None:
            by_model.join(number, record)
        tally.sections_total += 1
        kept, reason, shortened = 0, record["reason"], False
        for offer in record["offers"]:
            question, why_not = _settled(offer, tally)
            if question is None:
                reason = why_not
                continue
            kept += 1
            shortened = shortened or offer["shortened"]
            tally.rows += 1
            tally.by_strategy[offer["strategy"]] += 1
            yield _row(tally.rows, question, offer, record)
        if kept:
            tally.sections_used += 1
            tally.shortened += shortened
        else:
            tally.skip_section(record["path"], record["lines"], reason)


def _settled(offer: dict[str, Any], tally: _Tally) -> tuple[str | None, str]:
    """The question to ask, or None and why the offer is left out."""
    questions, about = offer["questions"], offer["about"]
    # A paragraph that stands on every page of a site is one example, whatever page it is asked about.
    said = _digest(f"{about}\x1f{offer['answer']}")
    if said in tally.said:
        return None, REPEATED
    tally.said.add(said)
    shared = len(questions) > 1 and _digest(about) in tally.about_twice
    for question in questions[shared:]:
        digest = _digest(comparable(question) or question)
        if digest not in tally.used:
            tally.used.add(digest)
            return question, ""
    return None, AMBIGUOUS


def _row(number: int, question: str, offer: dict[str, Any], record: dict[str, Any]) -> Row:
    first_line, last_line = offer["lines"]
    return Row.model_validate(
        {
            "row_id": f"r{number}",
            "messages": [
                {"role": "user", "content": question},
                {"role": "assistant", "content": offer["answer"]},
            ],
            "source": {
                "path": record["path"],
                "sha256": record["sha256"],
                "first_line": first_line,
                "last_line": last_line,
                "strategy": offer["strategy"],
            },
            "meta": offer.get("meta", {}),
        }
    )


def _skip_line(path: str, first_line: int | None, last_line: int | None, reason: str) -> bytes:
    import orjson

    skip = {"path": path, "first_line": first_line, "last_line": last_line, "reason": reason}
    return orjson.dumps(skip, option=orjson.OPT_APPEND_NEWLINE)


def _digest(text: str) -> int:
    """Stands for a text in the sets above, within this process: 64 bits, as in any dictionary of texts."""
    return hash(text)


def _refuse_nothing_read(source: str, tally: _Tally) -> None:
    if tally.files_read:
        return
    reasons = _summary(Counter(skip.reason for skip in tally.files_skipped))
    raise EmptyInput(
        f"{source!r} holds no notes that could be read" + (f": {reasons}." if reasons else "; it is empty."),
        next=f"Give a folder or file of notes; these endings are read: {endings()}.",
    )


def _no_example(source: str, tally: _Tally) -> EmptyInput:
    reasons = _summary(tally.reasons + Counter(skip.reason for skip in tally.files_skipped))
    return EmptyInput(
        f"No example was found in {tally.files_read} files of {source!r}: {reasons or 'there is no text'}.",
        next="Write headings with some sentences under them, or Q:/A: pairs, and call again.",
    )


def _summary(reasons: Counter[str]) -> str:
    """The most frequent reasons with their numbers."""
    counted = reasons.most_common()
    shown = "; ".join(f"{number}× {reason}" for reason, number in counted[:5])
    return shown + (f"; and {len(counted) - 5} more reasons" if len(counted) > 5 else "")
