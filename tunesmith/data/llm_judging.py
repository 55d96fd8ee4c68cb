"""A model's opinion of a dataset, beside what the offline checks found: it changes none of that."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from html import escape
from typing import Any

from tunesmith.data import llm_judge
from tunesmith.data.intervals import bootstrap_mean
from tunesmith.data.llm_asking import Asking, Model, Prompt
from tunesmith.data.llm_cache import AnswerCache
from tunesmith.data.llm_judge import CRITERIA, Rating
from tunesmith.data.llm_records import MAX_LISTED, Judged, JudgeFailure, LlmUsage, RatedMean
from tunesmith.data.records import Row
from tunesmith.data.scoring import REPORT_HTML, REPORT_JSON, SAMPLES
from tunesmith.data.scoring_records import CheckFindings, Score
from tunesmith.data.store import DatasetStore
from tunesmith.errors import ServiceFailed
from tunesmith.workspace import Workspace

CHECK = "low_quality_by_judge"
FIX = (
    "Read these rows and the judge's reasons in report.json; where it is right, mend the notes or write the row anew. "
    "A judge errs: look before you drop."
)
SAME_NOTE = "Every row got the same ratings: this judge does not tell these rows apart."

OnProgress = Callable[[str, int, int], None]


def judge(
    workspace: Workspace,
    dataset_id: str,
    score: Score,
    model: Model,
    *,
    max_rows: int = 100,
    seed: int = 42,
    on_progress: OnProgress | None = None,
) -> Score:
    """Have rows rated, add the ratings to the reports, and return the score with them.

    The offline findings, the grade and the plan to clean stay as they are; rows with a low rating are one more
    finding, of severity info, which flags nothing.

    Args:
        score: of the same dataset, with its reports written.
        model: the judge.
        max_rows: rows rated at most; which ones of more, `seed` decides.
        seed: also of the bootstrap intervals.
        on_progress: called with a message, rows done and rows to rate; may raise to stop.

    Raises:
        ServiceFailed: no row got a rating. The offline reports stay.
    """
    store = DatasetStore(workspace)
    chosen = _chosen(score.rows, max_rows, seed)
    tell = on_progress or (lambda _message, _done, _total: None)
    message = f"Asking {model.name} to rate rows"
    tell(message, 0, len(chosen))
    ratings: dict[int, tuple[str, Rating]] = {}
    failures: dict[int, JudgeFailure] = {}
    with AnswerCache(workspace.cache) as cache:
        asking = Asking(model, cache, llm_judge.read, version=llm_judge.VERSION)
        prompts = _prompts(store.rows(dataset_id), chosen, model.window_chars)
        with closing(asking.all(prompts)) as outcomes:
            for done, outcome in enumerate(outcomes, start=1):
                number, row_id = outcome.prompt.place
                if outcome.value is not None:
                    ratings[number] = (row_id, outcome.value)
                else:
                    failures[number] = JudgeFailure(row_id=row_id, reason=outcome.failure or "no answer")
                tell(message, done, len(chosen))
    if not ratings or not asking.usage.tokens:
        raise ServiceFailed(
            f"{model.name} gave no rating to any of {len(chosen)} rows: {asking.last_failure or 'no token was used'}. "
            "The offline checks are done and in the dataset's report.",
            next="Check the model's name, its address and the key in the settings, try ask_model, and call again; "
            "or score without llm_judge.",
        )
    rated = [ratings[number] for number in sorted(ratings)]
    failed = [failures[number] for number in sorted(failures)]
    judged = _summary(rated, failed, len(chosen), asking.usage, seed)
    low = [(row_id, rating) for row_id, rating in rated if rating.is_low]
    findings = [*score.findings, *([_finding(low, len(rated), score.rows)] if low else [])]
    result = score.model_copy(update={"judge": judged, "findings": findings})
    _add_to_reports(store, dataset_id, result, rated, failed)
    return result


def _chosen(rows: int, max_rows: int, seed: int) -> frozenset[int]:
    """Numbers of the rows to rate, from 0."""
    return frozenset(range(rows) if rows <= max_rows else random.Random(seed).sample(range(rows), max_rows))


def _prompts(rows: Iterator[Row], chosen: frozenset[int], limit: int) -> Iterator[Prompt]:
    for number, row in enumerate(rows):
        if number in chosen:
            yield Prompt(
                place=(number, row.row_id),
                messages=llm_judge.messages(row, limit),
                schema=llm_judge.SCHEMA,
                max_tokens=llm_judge.MAX_TOKENS,
            )


def _summary(
    rated: list[tuple[str, Rating]], failed: list[JudgeFailure], asked: int, usage: LlmUsage, seed: int
) -> Judged:
    def mean(of: Callable[[Rating], float]) -> RatedMean:
        middle, low, high = bootstrap_mean([of(rating) for _row_id, rating in rated], seed)
        return RatedMean(mean=round(middle, 4), low=round(low, 4), high=round(high, 4))

    return Judged(
        usage=usage,
        rows_judged=len(rated),
        rows_asked=asked,
        correctness=mean(lambda rating: rating.correctness),
        clarity=mean(lambda rating: rating.clarity),
        usefulness=mean(lambda rating: rating.usefulness),
        total=mean(lambda rating: sum(rating.scores) / len(CRITERIA)),
        low_rows=sum(rating.is_low for _row_id, rating in rated),
        note=SAME_NOTE if len(rated) > 2 and len({rating.scores for _row_id, rating in rated}) == 1 else None,
        failures=failed[:MAX_LISTED],
        failures_left_out=max(0, len(failed) - MAX_LISTED),
    )


def _finding(low: list[tuple[str, Rating]], rated: int, rows: int) -> CheckFindings:
    return CheckFindings(
        check=CHECK,
        severity="info",
        rows=len(low),
        share=round(len(low) / rows, 4),
        sample_row_ids=[row_id for row_id, _rating in low[:SAMPLES]],
        message=f"{len(low):,} of {rated:,} rated rows got {llm_judge.LOW} or less of {llm_judge.HIGHEST} for "
        f"{', '.join(CRITERIA[:-1])} or {CRITERIA[-1]}.",
        fix=FIX,
    )


def _add_to_reports(
    store: DatasetStore, dataset_id: str, score: Score, rated: list[tuple[str, Rating]], failed: list[JudgeFailure]
) -> None:
    """The ratings, into the reports that the offline score wrote; its own entries are not touched."""
    import orjson

    path = store.report_path(dataset_id, REPORT_JSON)
    report: dict[str, Any] = orjson.loads(path.read_bytes())
    scored = score.model_dump(mode="json")
    report |= {"judge": scored["judge"], "findings": scored["findings"]}
    report["judged_rows"] = [{"row_id": row_id, **_as_record(rating)} for row_id, rating in rated]
    report["judge_failures"] = [failure.model_dump() for failure in failed]
    store.write_report(dataset_id, REPORT_JSON, orjson.dumps(report))
    page = store.report_path(dataset_id, REPORT_HTML).read_text(encoding="utf-8")
    head, closing, tail = page.rpartition("</body>")
    store.write_report(dataset_id, REPORT_HTML, f"{head}{''.join(_html(score, rated))}\n{closing}{tail}")


def _as_record(rating: Rating) -> Mapping[str, Any]:
    return {**dict(zip(CRITERIA, rating.scores, strict=True)), "reason": rating.reason}


def _html(score: Score, rated: list[tuple[str, Rating]]) -> Iterator[str]:
    """A section of the page. What the judge wrote is escaped: it is data."""
    judged = score.judge
    assert judged is not None
    yield f"<h2>Ratings by {escape(judged.usage.model)}</h2><p>{judged.rows_judged:,} of {score.rows:,} rows, 1 to 5, "
    yield "with 95 % intervals. The checks above do not depend on them.</p><table><tr>"
    for name in (*CRITERIA, "total"):
        mean: RatedMean = getattr(judged, name)
        yield f"<td>{name}<br>{mean.mean:.2f} ({mean.low:.2f} to {mean.high:.2f})</td>"
    yield f"</tr></table><p>{escape(judged.note or '')}</p>"
    low = [(row_id, rating) for row_id, rating in rated if rating.is_low][:MAX_LISTED]
    if low:
        yield f"<p>{judged.low_rows:,} rows are rated {llm_judge.LOW} or less in one way; the first {len(low)}:</p><ul>"
        for row_id, rating in low:
            scores = ", ".join(f"{name} {value}" for name, value in zip(CRITERIA, rating.scores, strict=True))
            yield f"<li>{escape(row_id)}: {scores}. {escape(rating.reason)}</li>"
        yield "</ul>"
