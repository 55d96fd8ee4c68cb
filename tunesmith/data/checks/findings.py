"""The names of all checks, what they speak of, and how one finding is written down."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from tunesmith.data.scoring_records import Severity
from tunesmith.errors import InvalidArgument

SHORT_OUTPUT_CHARS = 20
LONG_OUTPUT_CHARS = 2000
FEW_ROWS = 500
MANY_ROWS = 5000
OPENING_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Check:
    """One check.

    Attributes:
        severity: error and warning flag a row; info does not.
        scope: row: seen in the row alone; group: seen by comparing rows, or with a base
            model; dataset: says something of the whole and flags no row.
        fix: what to do about it, for people.
    """

    severity: Severity
    scope: Literal["row", "group", "dataset"]
    fix: str


class Finding(NamedTuple):
    """One defect of one row."""

    check: str
    message: str

    def as_record(self) -> dict[str, str]:
        """As it stands in report.json."""
        check = CHECKS[self.check]
        return {"check": self.check, "severity": check.severity, "message": self.message, "fix": check.fix}


CHECKS: dict[str, Check] = {
    "empty_instruction": Check("error", "row", "Write the question, or drop the row."),
    "empty_output": Check("error", "row", "Write the answer, or drop the row."),
    "short_output": Check(
        "warning", "row", "Answer in a full sentence, unless short answers are what you want to teach."
    ),
    "long_output": Check("warning", "row", "Split it into several questions, or truncate it with clean_dataset."),
    "exact_duplicate": Check("error", "group", "Keep one of them: clean_dataset with drop=['exact_duplicate']."),
    "near_duplicate": Check("warning", "group", "Keep one of them: clean_dataset with drop=['near_duplicate']."),
    "conflicting_answers": Check("warning", "group", "Decide which answer is right and drop the others."),
    "output_equals_instruction": Check("error", "row", "Write an answer instead of the question, or drop the row."),
    "markdown_residue": Check("warning", "row", "Remove the markup that belongs to the page, not to the answer."),
    "placeholder": Check("error", "row", "Fill it in, or drop the row."),
    "truncated_output": Check(
        "warning", "row", "Complete the answer: a model trained on it learns to stop mid-sentence."
    ),
    "encoding_damage": Check("error", "row", "Read the source again in its true encoding, or drop the row."),
    "language_mismatch": Check("warning", "row", "Answer in the language of the question, or ask for the other one."),
    "pii": Check("warning", "row", "Redact it: clean_dataset with redact=['pii']."),
    "secret": Check("error", "row", "Redact it with clean_dataset redact=['secret'], and revoke the secret itself."),
    "train_eval_leak": Check("error", "group", "Split again with split_dataset, or drop the evaluation row."),
    "low_diversity": Check("warning", "dataset", "Rephrase questions so that no opening is used for more than half."),
    "format_inconsistent": Check("error", "row", "Put the turns in order: system, then user and assistant in turn."),
    "too_few_rows": Check("warning", "dataset", "Add notes or examples until there are 500 to 2,000 rows."),
    "too_many_rows": Check("info", "dataset", "Keep the best 2,000 to 5,000 rows, unless you teach a broad subject."),
    "over_max_length": Check("warning", "group", "Shorten the row or raise max_length; training cuts what is beyond."),
    "rejected_missing": Check(
        "warning",
        "group",
        "Preference training needs two answers in every row: clean_dataset with drop=['rejected_missing'], or export "
        "the rows as messages and import them to train on the chosen answers.",
    ),
    "empty_rejected": Check("error", "row", "Write the answer that was turned down, or drop the row."),
    "rejected_equals_chosen": Check("error", "row", "Drop the row: it prefers nothing."),
}


def default_drop(redact: Iterable[str]) -> list[str]:
    """What cleaning drops unless told otherwise: rows with errors, and duplicates; not what redaction mends."""
    mended = set(redact)
    errors = [name for name, check in CHECKS.items() if check.severity == "error" and check.scope == "row"]
    return [name for name in (*errors, "exact_duplicate", "near_duplicate") if name not in mended]


def check_names(names: Iterable[str], argument: str) -> list[str]:
    """`names`, each once, if every one is a check.

    Raises:
        InvalidArgument: an unknown name; the nearest known one is given.
    """
    wanted = list(dict.fromkeys(names))
    for name in wanted:
        if name not in CHECKS:
            near = difflib.get_close_matches(name, CHECKS, n=1, cutoff=0.0)[0]
            raise InvalidArgument(
                f"{argument}: there is no check {name[:60]!r}; the nearest name is {near!r}.",
                next=f"Use names of {', '.join(CHECKS)}.",
            )
    return wanted
