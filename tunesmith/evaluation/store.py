"""Comparisons on disk and in the database.

A comparison is a folder `comparisons/CMP_ID/` and, once it is complete, one row of
the `comparisons` table. While it runs there is only the folder with its answers.
"""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import Field

from tunesmith.errors import Conflict, InvalidArgument, NotFound
from tunesmith.evaluation.records import Comparison
from tunesmith.files import write_atomic
from tunesmith.records import Record
from tunesmith.workspace import Workspace, check_id, new_id

ANSWERS_FILE = "answers.jsonl"
COMPARISON_FILE = "comparison.json"
MARKDOWN_FILE = "report.md"
HTML_FILE = "report.html"


class ComparisonPage(Record):
    """Comparisons, newest first."""

    comparisons: list[Comparison]
    next_cursor: str | None = Field(description="For the next page; null on the last.")
    total: int = Field(description="Comparisons in all.")


class ComparisonStore:
    """The comparisons of one workspace. Safe to use from several threads and processes."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace

    def begin(self, comparison_id: str | None = None) -> tuple[str, Path]:
        """A comparison's id and folder: a new one, or one that was begun and not completed.

        Raises:
            InvalidArgument: not a comparison id.
            NotFound: it was never begun.
            Conflict: it is complete.
        """
        if comparison_id is None:
            comparison_id = new_id("cmp")
            folder = self.workspace.comparisons / comparison_id
            folder.mkdir()
            return comparison_id, folder
        check_id("cmp", comparison_id)
        folder = self.workspace.comparisons / comparison_id
        if self._find(comparison_id) is not None:
            raise Conflict(
                f"Comparison {comparison_id} is complete.",
                next=f"Read comparisons://{comparison_id}/report, or start a new one with compare_models.",
            )
        if not folder.is_dir():
            raise _unknown(comparison_id)
        return comparison_id, folder

    def complete(self, comparison: Comparison, *, markdown: str, html: str) -> None:
        """Write the reports, then show the comparison: a crash in between leaves a folder nobody lists.

        Raises:
            Conflict: it was completed before.
        """
        record = comparison.model_dump_json()
        self._write(comparison.comparison_id, record, markdown, html)
        with self.workspace.database.transaction() as connection:
            if connection.execute("SELECT 1 FROM comparisons WHERE id = ?", (comparison.comparison_id,)).fetchone():
                raise Conflict(
                    f"Comparison {comparison.comparison_id} is complete already.",
                    next=f"Read comparisons://{comparison.comparison_id}/report.",
                )
            connection.execute(
                "INSERT INTO comparisons (id, created_at, manifest) VALUES (?, ?, ?)",
                (comparison.comparison_id, comparison.created_at, record),
            )

    def rewrite(self, comparison: Comparison, *, markdown: str, html: str) -> None:
        """Put another conclusion in the place of a complete comparison's: people have scored it.

        The files first: whoever is told that the comparison changed reads the new report.

        Raises:
            NotFound: it is not complete.
        """
        self.get(comparison.comparison_id)
        record = comparison.model_dump_json()
        self._write(comparison.comparison_id, record, markdown, html)
        with self.workspace.database.transaction() as connection:
            connection.execute("UPDATE comparisons SET manifest = ? WHERE id = ?", (record, comparison.comparison_id))

    def _write(self, comparison_id: str, record: str, markdown: str, html: str) -> None:
        folder = self.workspace.comparisons / comparison_id
        write_atomic(folder / MARKDOWN_FILE, markdown)
        write_atomic(folder / HTML_FILE, html)
        write_atomic(folder / COMPARISON_FILE, record)

    def get(self, comparison_id: str) -> Comparison:
        """One complete comparison.

        Raises:
            InvalidArgument: not a comparison id.
            NotFound: there is none of that id, or it is not complete.
        """
        check_id("cmp", comparison_id)
        found = self._find(comparison_id)
        if found is None:
            raise _unknown(comparison_id)
        return Comparison.model_validate_json(found)

    def ids(self) -> list[str]:
        """Those of all complete comparisons, newest first."""
        return [row["id"] for row in self.workspace.database.read("SELECT id FROM comparisons ORDER BY seq DESC")]

    def folder(self, comparison_id: str) -> Path:
        """The folder with its answers and reports. Raises as `get`."""
        self.get(comparison_id)
        return self.workspace.comparisons / comparison_id

    def report(self, comparison_id: str) -> str:
        """The report as Markdown. Raises as `get`; NotFound too where the file is gone."""
        path = self.folder(comparison_id) / MARKDOWN_FILE
        if not path.is_file():
            raise NotFound(f"The report of {comparison_id} is missing ({path}).", next="Compare again: compare_models.")
        return path.read_text(encoding="utf-8")

    def page(self, limit: int, cursor: str | None = None) -> tuple[list[Comparison], str | None, int]:
        """Comparisons, newest first: at most `limit`, the cursor of the next page or None, and how many there are.

        Raises:
            InvalidArgument: `limit` below 1, or a cursor that no page returned.
        """
        if limit < 1:
            raise InvalidArgument(f"limit is {limit}; a page has at least 1 entry.", next="Use a limit from 1 to 100.")
        if cursor is not None and not re.fullmatch(r"[1-9][0-9]{0,17}", cursor, re.ASCII):
            raise InvalidArgument(
                f"{cursor[:60]!r} is not a cursor of this list.", next="Ask without a cursor, then pass next_cursor."
            )
        before = int(cursor) if cursor is not None else 2**62
        database = self.workspace.database
        total = int(database.read("SELECT COUNT(*) AS n FROM comparisons")[0]["n"])
        found = database.read(
            "SELECT seq, manifest FROM comparisons WHERE seq < ? ORDER BY seq DESC LIMIT ?", (before, limit + 1)
        )
        page = [Comparison.model_validate_json(line["manifest"]) for line in found[:limit]]
        return page, str(found[limit - 1]["seq"]) if len(found) > limit else None, total

    def _find(self, comparison_id: str) -> str | None:
        found = self.workspace.database.read("SELECT manifest FROM comparisons WHERE id = ?", (comparison_id,))
        return found[0]["manifest"] if found else None


def _unknown(comparison_id: str) -> NotFound:
    return NotFound(
        f"There is no complete comparison {comparison_id} in this workspace.",
        next="Call list_runs with kind='compare' to see the comparisons there are.",
    )
