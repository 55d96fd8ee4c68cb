from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.data.rows import clean_pair, clean_rows, pair_row, source, stored
from tunesmith.data.near_duplicates import similar_across
from tunesmith.data.records import Row
from tunesmith.data.scoring import score
from tunesmith.data.splitting import held_out_rows, split
from tunesmith.data.store import DatasetStore
from tunesmith.errors import BadInput, InvalidArgument, NotFound
from tunesmith.workspace import Workspace


def _rows(workspace: Workspace, dataset_id: str) -> list[Row]:
    return list(DatasetStore(workspace).rows(dataset_id))


def test_a_tenth_is_set_aside_and_every_row_has_a_side(workspace: Workspace) -> None:
    parent = stored(workspace, clean_rows(200))
    result = split(workspace, parent.dataset_id)
    assert (result.splits.train, result.splits.eval, result.rows) == (180, 20, 200)
    assert (result.parents, result.created_by) == ([parent.dataset_id], "split_dataset")
    before = _rows(workspace, parent.dataset_id)
    after = _rows(workspace, result.dataset_id)
    assert [row.model_copy(update={"split": None}) for row in after] == before


def test_no_section_crosses_the_split(workspace: Workspace) -> None:
    rows: list[Row] = []
    for number in range(120):
        start = 10 * (number // 3)
        # Three rows to a section: the same lines, lines within them, and lines that overlap both.
        first, last = ((start, start + 8), (start + 2, start + 3), (start + 7, start + 9))[number % 3]
        rows.append(pair_row(*clean_pair(number, "zh"), source=source(f"{number // 60}.md", first, last)))
    random.Random(1).shuffle(rows)
    result = split(workspace, stored(workspace, rows).dataset_id, eval_fraction=0.3)
    sides: dict[tuple[str, int], set[str | None]] = {}
    for row in _rows(workspace, result.dataset_id):
        assert row.source is not None
        sides.setdefault((row.source.path, row.source.first_line // 10), set()).add(row.split)
    assert all(len(side) == 1 for side in sides.values())
    assert 30 <= result.splits.eval <= 36


def test_no_heading_crosses_the_split(workspace: Workspace) -> None:
    rows = [
        pair_row(*clean_pair(n, "en"), source=source("a.md", 100 * n, 100 * n + 1), meta={"heading": ["A", str(n % 5)]})
        for n in range(50)
    ]
    result = split(workspace, stored(workspace, rows).dataset_id, eval_fraction=0.2)
    heading_sides = {(row.meta["heading"][1], row.split) for row in _rows(workspace, result.dataset_id)}
    assert len(heading_sides) == 5
    assert result.splits.eval == 10


def test_no_copy_and_no_near_copy_crosses_the_split(workspace: Workspace) -> None:
    chooser = random.Random(2)
    rows = clean_rows(60)
    for number in range(60):
        kind = number % 3
        text = rows[number].output
        if kind:
            at = chooser.randrange(len(text))
            text = text[:at] + "变x"[kind - 1] + text[at + 1 :]
        rows.append(pair_row(rows[number].instruction, text))
    result = split(workspace, stored(workspace, rows).dataset_id, eval_fraction=0.25, seed=3)
    after = _rows(workspace, result.dataset_id)
    texts = list(dict.fromkeys(row.instruction + "\n" + row.output for row in after))
    sides = {text: set[str | None]() for text in texts}
    for row in after:
        sides[row.instruction + "\n" + row.output].add(row.split)
    assert all(len(side) == 1 for side in sides.values())
    in_eval = ["eval" in sides[text] for text in texts]
    assert similar_across(texts, in_eval, [not each for each in in_eval]) == {}
    assert "train_eval_leak" not in {entry.check for entry in score(workspace, result.dataset_id).findings}
    assert result.splits.eval == 30


def test_the_same_rows_and_seed_give_the_same_split_in_any_order(workspace: Workspace) -> None:
    rows = clean_rows(80)
    shuffled = rows[::-1]

    def held_out(rows: list[Row], seed: int) -> set[str]:
        result = split(workspace, stored(workspace, rows).dataset_id, seed=seed)
        return {row.instruction for row in _rows(workspace, result.dataset_id) if row.split == "eval"}

    assert held_out(rows, 42) == held_out(shuffled, 42)
    assert held_out(rows, 42) != held_out(rows, 43)


def test_a_split_does_not_depend_on_the_process(workspace: Workspace) -> None:
    parent = stored(workspace, clean_rows(40))
    code = (
        "import sys; from pathlib import Path; from tunesmith.workspace import Workspace;"
        "from tunesmith.data.splitting import split;"
        "print(split(Workspace(Path(sys.argv[1])), sys.argv[2]).sha256)"
    )
    command = [sys.executable, "-c", code, str(workspace.root), parent.dataset_id]
    hashes = {
        subprocess.run(
            command, env={"PYTHONHASHSEED": seed, "PATH": ""}, capture_output=True, text=True, timeout=60, check=True
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert hashes == {split(workspace, parent.dataset_id).sha256}


def test_rows_in_memory_are_set_aside_as_a_stored_dataset_is(workspace: Workspace) -> None:
    rows = clean_rows(60)
    held_out = held_out_rows(rows, 0.2, 5)
    result = split(workspace, stored(workspace, rows).dataset_id, eval_fraction=0.2, seed=5)
    after = _rows(workspace, result.dataset_id)
    assert held_out == {number for number, row in enumerate(after) if row.split == "eval"}
    assert held_out_rows([rows[0]] * 5, 0.2, 5) == set()


def test_rows_that_all_belong_together_cannot_be_split(workspace: Workspace) -> None:
    for rows in (
        clean_rows(1),
        [pair_row(*clean_pair(n, "zh"), source=source("a.md", 1, 9)) for n in range(10)],
        [pair_row(*clean_pair(1, "zh")) for _ in range(10)],
    ):
        with pytest.raises(BadInput, match="cannot be split"):
            split(workspace, stored(workspace, rows).dataset_id)


def test_large_groups_leave_at_least_one_row_on_each_side(workspace: Workspace) -> None:
    rows = [pair_row(*clean_pair(n, "zh"), source=source(f"{n // 9}.md", 1, 9)) for n in range(18)]
    result = split(workspace, stored(workspace, rows).dataset_id, eval_fraction=0.05)
    assert (result.splits.train, result.splits.eval) == (9, 9)
    tiny = split(workspace, stored(workspace, clean_rows(2)).dataset_id, eval_fraction=0.99)
    assert (tiny.splits.train, tiny.splits.eval) == (1, 1)


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan"), float("inf")])
def test_a_fraction_out_of_range_is_refused(workspace: Workspace, fraction: float) -> None:
    with pytest.raises(InvalidArgument, match="eval_fraction"):
        split(workspace, stored(workspace, clean_rows(3)).dataset_id, eval_fraction=fraction)


def test_an_unknown_dataset_is_not_found(workspace: Workspace) -> None:
    with pytest.raises(NotFound):
        split(workspace, "ds_aaaaaaaaaaaa")


def _run(workspace: Workspace, folder: Path, kind: str, **args: object) -> dict[str, object]:
    folder.mkdir()
    spec = {"run_id": "run_aaaaaaaaaaaa", "kind": kind, "args": args, "workspace": str(workspace.root), "roots": []}
    (folder / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
    command = [sys.executable, "-m", "tunesmith.data.worker", str(folder)]
    subprocess.run(command, capture_output=True, timeout=120, check=False)
    return json.loads((folder / "result.json").read_text(encoding="utf-8"))


def test_the_worker_scores_and_cleans_in_a_process_of_its_own(workspace: Workspace, tmp_path: Path) -> None:
    rows = [*clean_rows(20), pair_row("", "nothing was asked, and still this answers.", "bad")]
    dataset = stored(workspace, rows)
    scored = _run(workspace, tmp_path / "score", "score", dataset_id=dataset.dataset_id)["result"]
    assert isinstance(scored, dict)
    assert (scored["rows"], scored["flagged"], scored["tokens"]) == (21, 1, None)
    cleaned = _run(workspace, tmp_path / "clean", "clean", dataset_id=dataset.dataset_id, drop=None)["result"]
    assert isinstance(cleaned, dict)
    assert (cleaned["rows_in"], cleaned["kept"], cleaned["dropped"]) == (21, 20, 1)
    events = (tmp_path / "score" / "events.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(events[-1])["fraction"] == 1.0
    failed = _run(workspace, tmp_path / "failed", "clean", dataset_id=dataset.dataset_id, drop=["emtpy_output"])
    assert failed["error"]["code"] == "invalid_argument" and "empty_output" in failed["error"]["message"]  # type: ignore[index]
