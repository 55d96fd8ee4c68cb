"""How good a dataset is, row by row and as a whole.

Two passes: the first sees every row alone and gathers what comparing them needs
(their texts, not the rows themselves), the second writes the report.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator

from tunesmith.data.checks.findings import (
    CHECKS,
    FEW_ROWS,
    MANY_ROWS,
    OPENING_SHARE,
    Finding,
    default_drop,
)
from tunesmith.data.checks.private import REDACTABLE
from tunesmith.data.checks.repeats import Repeats
from tunesmith.data.checks.rows import check_row
from tunesmith.data.checks.whole import Openings, grade, quantity
from tunesmith.data.records import Message, Row
from tunesmith.data.score_report import EXAMPLES, report_html, report_json
from tunesmith.data.scoring_records import CheckFindings, CleanPlan, Diversity, Score, Tokens
from tunesmith.data.store import DatasetStore, percentile
from tunesmith.workspace import Workspace

OnProgress = Callable[[str, int, int], None]

SAMPLES = 10
PROGRESS_ROWS = 500
REPORT_JSON, REPORT_HTML = "report.json", "report.html"
_WORST_FIRST = {"error": 0, "warning": 1, "info": 2}


def score(
    workspace: Workspace,
    dataset_id: str,
    *,
    against: str | None = None,
    count_tokens: Callable[[list[Message]], int] | None = None,
    max_length: int | None = None,
    on_progress: OnProgress | None = None,
) -> Score:
    """Run every check and leave `report.json` and `report.html` beside the rows.

    Args:
        against: another dataset; rows that are in it, or nearly, are leaks.
        count_tokens: tokens of a whole conversation as the model will see it.
        max_length: tokens beyond which training would cut a row; needs `count_tokens`.
        on_progress: called with a message, rows done and rows in all; may raise to stop.

    Raises:
        NotFound, InvalidArgument: as `DatasetStore.get`, for either dataset.
    """
    store = DatasetStore(workspace)
    dataset = store.get(dataset_id)
    if against is not None:
        store.get(against)
    tell = on_progress or (lambda _message, _done, _total: None)
    scan = _Scan(count_tokens, max_length)
    for number, row in enumerate(store.rows(dataset_id)):
        scan.add(row)
        if number % PROGRESS_ROWS == 0:
            tell("Checking each row", number, dataset.rows)
    for row in store.rows(against) if against is not None else ():
        scan.repeats.add_outside(row)
    scan.compare(lambda message: tell(f"Comparing rows: {message}", dataset.rows, dataset.rows))
    tell("Writing the report", dataset.rows, dataset.rows)
    flagged = len(scan.found)
    rate = (dataset.rows - flagged) / dataset.rows
    result = Score(
        rows=dataset.rows,
        passed=dataset.rows - flagged,
        flagged=flagged,
        quality_rate=round(rate, 4),
        grade=grade(rate),
        findings=scan.summary(),
        quantity=quantity(dataset.rows),
        diversity=scan.openings.diversity(),
        lengths=dataset.chars,
        tokens=scan.tokens(),
        clean_plan=scan.clean_plan(),
        report=str(store.report_path(dataset_id, REPORT_HTML)),
    )
    rows = [(scan.row_ids[number], findings) for number, findings in sorted(scan.found.items())]
    store.write_report(dataset_id, REPORT_JSON, report_json(dataset_id, result, rows))
    shown = {row_id for entry in result.findings for row_id in entry.sample_row_ids[:EXAMPLES]}
    excerpts = {row.row_id: row for row in store.rows(dataset_id) if row.row_id in shown} if shown else {}
    store.write_report(dataset_id, REPORT_HTML, report_html(dataset, result, rows, excerpts, scan.lengths))
    return result


class _Scan:
    """Findings by row number, and what is gathered on the way."""

    def __init__(self, count_tokens: Callable[[list[Message]], int] | None, max_length: int | None) -> None:
        self._count_tokens = count_tokens
        self._max_length = max_length
        self._token_counts = array("q")
        self._near: dict[int, int] = {}
        self.row_ids: list[str] = []
        self.found: dict[int, list[Finding]] = {}
        self.repeats = Repeats()
        self.openings = Openings()
        self.lengths = {"question": array("q"), "answer": array("q")}

    def add(self, row: Row) -> None:
        number = len(self.row_ids)
        self.row_ids.append(row.row_id)
        self.openings.add(row.instruction)
        self.lengths["question"].append(len(row.instruction))
        self.lengths["answer"].append(len(row.output))
        self.repeats.add(row)
        for finding in check_row(row):
            self._find(number, finding.check, finding.message)
        if self._count_tokens is not None:
            count = max(map(self._count_tokens, filter(None, (row.messages, row.rejected_messages))))
            self._token_counts.append(count)
            if self._max_length is not None and count > self._max_length:
                self._find(number, "over_max_length", f"It has {count:,} tokens; max_length is {self._max_length:,}.")

    def compare(self, say: Callable[[str], None]) -> None:
        for number, original in self.repeats.exact_duplicates().items():
            self._find(number, "exact_duplicate", f"The same as row {self.row_ids[original]}.")
        self._near = self.repeats.near_duplicates(say=say)
        for number, original in self._near.items():
            self._find(number, "near_duplicate", f"Nearly the same as row {self.row_ids[original]}.")
        for number, answers in self.repeats.conflicting():
            self._find(number, "conflicting_answers", f"The same question has {answers} different answers.")
        for number in self.repeats.rejected_missing():
            self._find(
                number, "rejected_missing", "It has one answer, where other rows have a chosen and a rejected one."
            )
        for number in self.repeats.leaks(say=say):
            self._find(
                number, "train_eval_leak", "The same text, or nearly, is among the rows it must be kept apart from."
            )

    def summary(self) -> list[CheckFindings]:
        """One entry for each check that found something, worst and most frequent first."""
        numbers: dict[str, list[int]] = {}
        for number, findings in sorted(self.found.items()):
            for finding in findings:
                numbers.setdefault(finding.check, []).append(number)
        entries = [self._entry(check, rows, _message(check, len(rows))) for check, rows in numbers.items()]
        entries += self._whole()
        return sorted(entries, key=lambda entry: (_WORST_FIRST[entry.severity], -entry.rows, entry.check))

    def tokens(self) -> Tokens | None:
        if self._count_tokens is None:
            return None
        counts = sorted(self._token_counts)
        limit = self._max_length
        return Tokens(
            total=sum(counts),
            p50=percentile(counts, 50),
            p95=percentile(counts, 95),
            max=counts[-1],
            max_length=limit,
            over_max_length=0 if limit is None else sum(count > limit for count in counts),
        )

    def clean_plan(self) -> CleanPlan:
        """What cleaning with its defaults does to these rows. Duplicates are counted among the rows that stay."""
        names = set(default_drop(REDACTABLE))
        checks_of = {number: {finding.check for finding in findings} for number, findings in self.found.items()}
        dropped = {
            number
            for number, checks in checks_of.items()
            if any(check in names and CHECKS[check].scope == "row" for check in checks)
        }
        staying = [number for number in range(len(self.row_ids)) if number not in dropped]
        dropped_as_row = set(dropped)
        dropped |= set(self.repeats.exact_duplicates(staying))
        dropped |= self.repeats.near_duplicates_without(self._near, dropped_as_row) - dropped_as_row
        edits = {"pii", "secret", "long_output"}
        edited = sum(1 for number, checks in checks_of.items() if number not in dropped and checks & edits)
        return CleanPlan(would_drop=len(dropped), would_edit=edited)

    def _whole(self) -> Iterator[CheckFindings]:
        rows = len(self.row_ids)
        if rows < FEW_ROWS:
            yield self._entry("too_few_rows", range(rows), f"There are {rows} rows, fewer than {FEW_ROWS}.")
        if rows > MANY_ROWS:
            yield self._entry("too_many_rows", range(rows), f"There are {rows:,} rows, more than {MANY_ROWS:,}.")
        diversity: Diversity = self.openings.diversity()
        for opening, what in ((diversity.by_word, "word"), (diversity.by_characters, "two characters")):
            if opening.share > OPENING_SHARE and self.openings.speaks_for_the_dataset(opening):
                count = round(opening.share * opening.rows)
                message = (
                    f"{opening.share:.0%} of {opening.rows} questions begin with {opening.opening!r} (first {what})."
                )
                yield self._entry("low_diversity", range(rows), message).model_copy(
                    update={"rows": count, "share": round(count / rows, 4), "sample_row_ids": []}
                )

    def _entry(self, check: str, numbers: list[int] | range, message: str) -> CheckFindings:
        known = CHECKS[check]
        whole = known.scope == "dataset"
        return CheckFindings(
            check=check,
            severity=known.severity,
            rows=len(numbers),
            share=round(len(numbers) / len(self.row_ids), 4),
            sample_row_ids=[] if whole else [self.row_ids[number] for number in numbers[:SAMPLES]],
            message=message,
            fix=known.fix,
        )

    def _find(self, number: int, check: str, message: str) -> None:
        self.found.setdefault(number, []).append(Finding(check, message))


_MESSAGES = {
    "empty_instruction": "have no question",
    "empty_output": "have no answer",
    "short_output": "have an answer of fewer than 20 characters",
    "long_output": "have an answer of more than 2,000 characters",
    "exact_duplicate": "repeat an earlier row",
    "near_duplicate": "nearly repeat an earlier row (Jaccard similarity of 5-character shingles from 0.8)",
    "conflicting_answers": "answer a question that another row answers differently",
    "rejected_missing": "have no rejected answer, and others have one",
    "empty_rejected": "have a rejected answer that is empty",
    "rejected_equals_chosen": "reject the answer that they choose",
    "output_equals_instruction": "repeat the question as the answer",
    "markdown_residue": "hold markup that belongs to the page",
    "placeholder": "hold a placeholder that was never filled in",
    "truncated_output": "have an answer that breaks off",
    "encoding_damage": "hold text that was read in the wrong encoding",
    "language_mismatch": "answer in another language than the question's",
    "pii": "hold personal data",
    "secret": "hold a key, a token or a password",
    "train_eval_leak": "are, or nearly are, on both sides of a split",
    "format_inconsistent": "have turns out of order",
    "over_max_length": "are longer than max_length",
}


def _message(check: str, rows: int) -> str:
    return f"{rows:,} {'row' if rows == 1 else 'rows'}: {_MESSAGES[check]}."
