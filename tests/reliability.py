"""Writes the table of faults into docs/reliability.md: `python -m tests.reliability`.

The faults are those of tests/faults.py; which tests show them is asked of pytest, which collects without running.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults import FAULTS

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reliability.md"
BEGIN = "<!-- faults: made by `python -m tests.reliability` -->"
END = "<!-- end of faults -->"


@dataclass(frozen=True, order=True)
class Shown:
    """A test that injects faults.

    Attributes:
        file: relative to the repository.
        name: of the function.
        suite: the command that runs it.
    """

    file: str
    name: str
    suite: str


class Collector:
    """A pytest plugin: the tests of each fault id, known or not."""

    def __init__(self) -> None:
        self.by_fault: dict[str, set[Shown]] = defaultdict(set)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            suite = next((f"make test-{name}" for name in ("gpu", "faults") if item.get_closest_marker(name)), "")
            name = item.originalname if isinstance(item, pytest.Function) else item.name
            shown = Shown(item.path.relative_to(ROOT).as_posix(), name, suite or "make test")
            for mark in item.iter_markers("fault"):
                for fault in mark.args:
                    self.by_fault[str(fault)].add(shown)


def collect() -> dict[str, set[Shown]]:
    """Fault id to tests. Prints what pytest says, and exits, when a test module cannot be collected."""
    # Only modules that name a fault: importing them all takes long.
    modules = [path for path in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.fault(" in path.read_text("utf-8")]
    collector = Collector()
    # The empty -m takes back the one of pyproject.toml, which leaves out what takes minutes or a card.
    arguments = ["--collect-only", "-qq", "--no-header", "-m", "", "-p", "no:cacheprovider", f"--rootdir={ROOT}"]
    with redirect_stdout(sys.stderr):
        status = pytest.main([*arguments, *map(str, modules)], plugins=[collector]) if modules else 0
    if status:
        sys.exit(2)
    return collector.by_fault


def problems(by_fault: dict[str, set[Shown]]) -> list[str]:
    """Faults without a test, and marks with an id that is not in tests/faults.py."""
    found = [f"{fault} has no test" for fault in FAULTS if not by_fault.get(fault)]
    for fault in sorted(set(by_fault) - set(FAULTS)):
        found += [f"{shown.file}: {shown.name} names {fault}, which is unknown" for shown in sorted(by_fault[fault])]
    return found


def table(by_fault: dict[str, set[Shown]]) -> str:
    """Markdown, a row a fault."""
    rows = ["| | what is done | what must come of it | shown by |", "|---|---|---|---|"]
    for fault, what in FAULTS.items():
        tests = "<br>".join(_link(shown) for shown in sorted(by_fault.get(fault, ()))) or "–"
        rows.append(f"| {fault} | {what.inject} | {what.expected} | {tests} |")
    return "\n".join(rows)


def with_table(page: str, by_fault: dict[str, set[Shown]]) -> str:
    """The page with the table between its two marks."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{table(by_fault)}\n\n{END}{after}"


def _link(shown: Shown) -> str:
    sentence = shown.name.removeprefix("test_").replace("_", " ")
    where = "" if shown.suite == "make test" else f" ({shown.suite})"
    return f"[{sentence}](../{shown.file}){where}"


def main() -> None:
    """Rewrite the page, or --check it. Exit status 1: something is wrong; 2: no tests could be collected."""
    by_fault = collect()
    wrong = problems(by_fault)
    page = PAGE.read_text(encoding="utf-8")
    if BEGIN not in page or END not in page:
        sys.exit(f"{PAGE} has lost the marks {BEGIN} and {END}.")
    fresh = with_table(page, by_fault)
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(fresh, encoding="utf-8")
    elif fresh != page:
        wrong.append(f"{PAGE.relative_to(ROOT)} is stale: run python -m tests.reliability")
    for line in wrong:
        print(line)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
