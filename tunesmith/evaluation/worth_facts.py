"""What speaks for fine-tuning, retrieval or prompting besides the verdict: measured on the answers and on the notes."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tunesmith.data.store import DatasetStore
from tunesmith.errors import NotFound
from tunesmith.evaluation.metrics import rouge_l
from tunesmith.evaluation.records import Answer, Question
from tunesmith.workspace import Workspace

BYTES_PER_TOKEN = 4
# A number, alone or with the letters that make it a code: 890, 1.5, 14:30, E35, GPT-4.
_FIGURE = re.compile(r"(?<![\w.])(?:[A-Za-z]{1,4}-?)?\d+(?:[.,:]\d+)*")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?:\D|$))")
_DATED = re.compile(
    r"(?<!\d)(?:19|20)\d\d[-_.]?(?:0[1-9]|1[0-2])[-_.]?(?:[0-2]\d|3[01])(?!\d)|\bday[-_ ]?\d+", re.IGNORECASE
)
_SOURCE = re.compile(
    r"\b(?:cite|cites|citation|citations|source|sources)\b|\b(?:which|what) (?:page|document|file|section|chapter)\b|"
    r"\bwhere (?:does|do|did) (?:it|the \w+|you) (?:say|read)\b|出处|来源|引用|原文",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Recall:
    """Numbers and codes of the references that a model's answers hold."""

    right: int
    of: int

    @property
    def share(self) -> float:
        return self.right / self.of


@dataclass(frozen=True)
class AnswerFacts:
    """What the questions and answers show.

    Attributes:
        questions: how many were asked.
        asking_for_source: how many ask where something stands.
        recall: by label; only where a reference holds a number that its question does not.
        tokens: by label, sent (estimated at 4 bytes a token) and received, of the answers.
        rouge: by label, ROUGE-L by question, mean over repetitions; only where there are a reference and a reply.
    """

    questions: int = 0
    asking_for_source: int = 0
    recall: Mapping[str, Recall] = field(default_factory=dict)
    tokens: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    rouge: Mapping[str, Mapping[int, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Notes:
    """The notes a dataset was made from, as they are now.

    Attributes:
        files: distinct files the rows name.
        dated: files whose names hold a date or a day's number: notes that go on.
        changed: files that are not any more what the rows were made from, or gone; None where the folder is unknown.
    """

    files: int
    dated: int
    changed: int | None


def figures(text: str) -> set[str]:
    """The numbers and codes in a text, thousands separators aside."""
    return {_THOUSANDS.sub("", found).casefold() for found in _FIGURE.findall(text)}


def asks_for_source(text: str) -> bool:
    """Whether a question asks where something stands."""
    return _SOURCE.search(text) is not None


def answer_facts(
    questions: Sequence[Question], answers: Mapping[str, Iterable[Answer]], *, likeness: bool = True
) -> AnswerFacts:
    """Measure it.

    Args:
        answers: by label.
        likeness: also measure ROUGE-L, which takes the longest.
    """
    wanted = {
        one.question: found
        for one in questions
        if one.reference and (found := figures(one.reference) - figures(one.text))
    }
    sent = {one.question: sum(len(m.content.encode("utf-8", "replace")) for m in one.messages) for one in questions}
    recall: dict[str, Recall] = {}
    tokens: dict[str, tuple[int, int]] = {}
    for label, given in answers.items():
        right = of = prompt = completion = 0
        for answer in given:
            if answer.reply is None or answer.question not in sent:
                continue
            prompt += sent[answer.question] // BYTES_PER_TOKEN
            completion += (
                answer.tokens
                if answer.tokens is not None
                else len(answer.reply.encode("utf-8", "replace")) // BYTES_PER_TOKEN
            )
            if answer.question in wanted:
                right += len(wanted[answer.question] & figures(answer.reply))
                of += len(wanted[answer.question])
        tokens[label] = (prompt, completion)
        if of:
            recall[label] = Recall(right, of)
    asking = sum(asks_for_source(one.text) for one in questions)
    return AnswerFacts(len(questions), asking, recall, tokens, _rouge(questions, answers) if likeness else {})


def _rouge(questions: Sequence[Question], answers: Mapping[str, Iterable[Answer]]) -> dict[str, dict[int, float]]:
    references = {one.question: one.reference for one in questions if one.reference}
    found: dict[str, dict[int, float]] = {}
    for label, given in answers.items():
        values: dict[int, list[float]] = {}
        for answer in given:
            if answer.reply is not None and answer.question in references:
                likeness = rouge_l(answer.reply, references[answer.question] or "")
                values.setdefault(answer.question, []).append(likeness)
        found[label] = {number: sum(some) / len(some) for number, some in values.items()}
    return found


def notes_of(workspace: Workspace, dataset_id: str | None) -> Notes | None:
    """What the notes behind a dataset look like now; None where its rows name no file.

    Args:
        dataset_id: of the dataset that was trained on.
    """
    if dataset_id is None:
        return None
    store = DatasetStore(workspace)
    try:
        files = {row.source.path: row.source.sha256 for row in store.rows(dataset_id) if row.source}
        ancestors = _ancestors(store, dataset_id)
    except NotFound:
        return None
    if not files:
        return None
    folder = _extracted_from(workspace, ancestors)
    changed = None if folder is None else sum(_sha256(folder, path) != digest for path, digest in files.items())
    return Notes(len(files), sum(_DATED.search(path) is not None for path in files), changed)


def _ancestors(store: DatasetStore, dataset_id: str) -> set[str]:
    found: set[str] = set()
    waiting = [dataset_id]
    while waiting:
        identity = waiting.pop()
        if identity in found:
            continue
        found.add(identity)
        with suppress(NotFound):  # a parent that was thrown away
            waiting += store.get(identity).parents
    return found


def _extracted_from(workspace: Workspace, datasets: set[str]) -> Path | None:
    """The folder or file that the run that made one of the datasets read; None where that is not to be found."""
    with workspace.database.transaction() as connection:
        runs = connection.execute(
            "SELECT run_id FROM runs WHERE kind = 'extract' AND state = 'succeeded' ORDER BY seq DESC LIMIT 200"
        ).fetchall()
    for (run_id,) in runs:
        folder = workspace.runs / run_id
        try:
            result = json.loads((folder / "result.json").read_bytes())["result"]
            if result["dataset"]["dataset_id"] in datasets:
                source = Path(json.loads((folder / "spec.json").read_bytes())["args"]["source"])
                return source if source.exists() else None
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


def _sha256(source: Path, path: str) -> str | None:
    """Digest of a file of the notes; None where it is gone or cannot be read."""
    file = source / path if source.is_dir() else source
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:
        return None
