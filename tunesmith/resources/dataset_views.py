"""Rows and reports of datasets in pages that a client can take: about 20,000 characters at most."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tunesmith.data.row_pages import shortened
from tunesmith.data.store import DatasetStore
from tunesmith.errors import InvalidArgument, NotFound, NotSupported

ROWS_SHOWN = 50
PAGE_CHARS = 19_000
CHARACTER_BYTES = 4
MAX_REPORT_BYTES = 64 * 2**20
_CURSOR = re.compile(r"0|[1-9][0-9]{0,17}", re.ASCII)


def rows_page(datasets: DatasetStore, dataset_id: str, cursor: str | None) -> str:
    """A page of rows as JSON: rows, next_cursor, total, and where there is more `next`, its URI.

    A row that is longer than a page is cut and says so.

    Raises: as `DatasetStore.page_rows`.
    """
    limit = PAGE_CHARS - 500
    found, following, total = datasets.page_rows(dataset_id, ROWS_SHOWN, cursor, max_bytes=CHARACTER_BYTES * PAGE_CHARS)
    first, left_out = shortened(found[0], limit)
    entries = [json.dumps(row.model_dump(mode="json"), ensure_ascii=False) for row in [first, *found[1:]]]
    kept = _fitting(entries, limit)
    if kept < len(found):
        following = str(int(cursor or 0) + kept)
    rest: dict[str, Any] = {"next_cursor": following, "total": total}
    if left_out:
        rest["note"] = f"{left_out:,} characters of {first.row_id} are left out; export_dataset writes all of them."
    return _page(f"datasets://{dataset_id}/rows", "rows", entries[:kept], rest)


def report_page(datasets: DatasetStore, dataset_id: str, cursor: str | None) -> str:
    """The score, then its flagged rows page by page, as JSON. Only the first page has the score.

    Raises:
        NotFound: not scored yet; else as `DatasetStore.get`.
        InvalidArgument: a cursor that no page returned.
        NotSupported: a report too large to be read here.
    """
    report = _report(datasets.report_path(dataset_id, "report.json"), dataset_id)
    rows = report.pop("rows", [])
    start = 0
    if cursor is not None:
        if not _CURSOR.fullmatch(cursor) or int(cursor) >= len(rows):
            raise InvalidArgument(
                f"{cursor[:60]!r} is not a cursor of this report, which has {len(rows)} flagged rows.",
                next="Leave cursor out for the first page, then pass the next_cursor of the page before.",
            )
        start = int(cursor)
    score = {} if cursor is not None else {name: _brief(value) for name, value in report.items()}
    room = PAGE_CHARS - len(json.dumps(score, ensure_ascii=False)) - 500
    entries = [json.dumps(row, ensure_ascii=False) for row in rows[start : start + 500]]
    kept = _fitting(entries, room) if room > 0 else 0  # a long score has its page for itself
    following = str(start + kept) if start + kept < len(rows) else None
    rest = {**score, "next_cursor": following, "flagged_rows": len(rows)}
    return _page(f"datasets://{dataset_id}/report", "rows", entries[:kept], rest)


def _report(path: Path, dataset_id: str) -> dict[str, Any]:
    import orjson

    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise NotFound(
            "That dataset has not been scored.", next=f'Call score_dataset(dataset_id="{dataset_id}").'
        ) from None
    if size > MAX_REPORT_BYTES:
        raise NotSupported(
            f"The report has {size / 2**20:.0f} MiB, too much to be read page by page here.",
            next=f"Open {path.with_suffix('.html')} in a browser, or read {path}.",
        )
    return orjson.loads(path.read_bytes())


def _brief(value: Any) -> Any:
    """A list of rows beside the flagged ones, as a judge's ratings, by its beginning."""
    if isinstance(value, list) and len(json.dumps(value, ensure_ascii=False)) > PAGE_CHARS // 3:
        entries = [json.dumps(each, ensure_ascii=False) for each in value]
        kept = _fitting(entries, PAGE_CHARS // 3)
        return [*value[:kept], f"{len(value) - kept} more in report.json"]
    return value


def _fitting(entries: list[str], limit: int) -> int:
    """How many of the entries have at most `limit` characters together; one at least."""
    used = 0
    for number, entry in enumerate(entries):
        used += len(entry) + 2
        if used > limit:
            return max(number, 1)
    return len(entries)


def _page(uri: str, name: str, entries: list[str], rest: dict[str, Any]) -> str:
    if rest["next_cursor"] is not None:
        rest["next"] = f"{uri}?cursor={rest['next_cursor']}"
    return f'{{"{name}": [{", ".join(entries)}], {json.dumps(rest, ensure_ascii=False)[1:]}'
