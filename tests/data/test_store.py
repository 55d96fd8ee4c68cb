from __future__ import annotations

import hashlib
import json
import threading

import pytest

from tests.data.rows import clean_rows, pair_row, source, stored
from tunesmith.data.row_pages import shortened
from tunesmith.data.store import DatasetStore
from tunesmith.errors import EmptyInput, InvalidArgument, NotFound, StoreCorrupt
from tunesmith.workspace import Workspace


def test_rows_come_back_as_they_were_stored(workspace: Workspace) -> None:
    rows = [
        pair_row("什么是 LoRA?", "低秩适配。\u2028行分隔符 😀", meta={"input": "", "n": 1, "deep": [{"a": None}]}),
        pair_row("q", "a", source=source("a.md", 3, 9), split="eval"),
    ]
    store = DatasetStore(workspace)
    dataset = stored(workspace, rows)
    back = list(store.rows(dataset.dataset_id))
    assert [row.row_id for row in back] == ["r1", "r2"]
    assert [row.model_copy(update={"row_id": ""}) for row in back] == rows


def test_a_dataset_knows_its_rows_by_number_language_length_and_source(workspace: Workspace) -> None:
    rows = [
        pair_row("问" * 4, "答" * 30, source=source("a.md", 1, 2)),
        pair_row("word " * 2, "word " * 20, source=source("a.md", 3, 4), split="train"),
        pair_row("слово", "слово", source=source("b.md", 1, 2), split="eval"),
    ]
    dataset = stored(workspace, rows, name="三种\n语言")
    assert dataset.rows == 3
    assert dataset.name == "三种 语言"
    assert dataset.languages == {"zh": 1, "en": 1, "other": 1}
    assert (dataset.splits.train, dataset.splits.eval) == (1, 1)
    assert (dataset.sources.files, dataset.sources.spans) == (2, 3)
    assert (dataset.chars.output.min, dataset.chars.output.p50, dataset.chars.output.max) == (5, 30, 100)
    content = DatasetStore(workspace).rows_path(dataset.dataset_id).read_bytes()
    assert dataset.sha256 == hashlib.sha256(content).hexdigest()
    manifest = json.loads((workspace.datasets / dataset.dataset_id / "manifest.json").read_text(encoding="utf-8"))
    assert manifest == dataset.model_dump()


def test_missing_and_repeated_row_ids_are_replaced_and_others_kept(workspace: Workspace) -> None:
    rows = [pair_row("q", str(n), row_id=row_id) for n, row_id in enumerate(["r2", "", "r2", "mine", "r3"])]
    dataset = stored(workspace, rows)
    ids = [row.row_id for row in DatasetStore(workspace).rows(dataset.dataset_id)]
    assert ids[0] == "r2" and ids[3] == "mine"
    assert len(set(ids)) == 5


def test_no_rows_make_no_dataset_and_leave_nothing(workspace: Workspace) -> None:
    with pytest.raises(EmptyInput):
        stored(workspace, [])
    assert list(workspace.datasets.iterdir()) == []
    assert DatasetStore(workspace).page(10) == ([], None, 0)


def test_a_failure_among_the_rows_leaves_nothing(workspace: Workspace) -> None:
    with pytest.raises(InvalidArgument, match="r2"):
        stored(workspace, [pair_row("q", "a"), pair_row("q", "b", meta={"bad": "\ud800"})])
    assert list(workspace.datasets.iterdir()) == []


def test_pages_of_datasets_go_from_new_to_old_and_end(workspace: Workspace) -> None:
    store = DatasetStore(workspace)
    made = [stored(workspace, clean_rows(1, first=n)).dataset_id for n in range(5)]
    first, cursor, total = store.page(2)
    second, cursor, _ = store.page(2, cursor)
    third, end, _ = store.page(2, cursor)
    assert [dataset.dataset_id for dataset in first + second + third] == made[::-1]
    assert (end, total) == (None, 5)


@pytest.mark.parametrize("cursor", ["", "x", "-1", "0", "1.5", "9" * 40, "１", "1; DROP TABLE datasets"])
def test_a_cursor_nobody_gave_out_is_refused(workspace: Workspace, cursor: str) -> None:
    dataset = stored(workspace, clean_rows(3))
    with pytest.raises(InvalidArgument, match="cursor"):
        DatasetStore(workspace).page(2, cursor)
    with pytest.raises(InvalidArgument, match="cursor"):
        DatasetStore(workspace).page_rows(dataset.dataset_id, 2, cursor)


def test_pages_of_rows_cover_every_row_once(workspace: Workspace) -> None:
    store = DatasetStore(workspace)
    dataset = stored(workspace, clean_rows(7))
    seen: list[str] = []
    cursor: str | None = None
    while True:
        rows, cursor, total = store.page_rows(dataset.dataset_id, 3, cursor)
        seen += [row.row_id for row in rows]
        assert total == 7
        if cursor is None:
            break
    assert seen == [f"r{n}" for n in range(1, 8)]
    with pytest.raises(InvalidArgument, match="cursor"):
        store.page_rows(dataset.dataset_id, 3, "7")
    with pytest.raises(InvalidArgument, match="limit"):
        store.page_rows(dataset.dataset_id, 0)


def test_a_page_far_inside_begins_where_the_index_says_and_older_datasets_need_none(workspace: Workspace) -> None:
    store = DatasetStore(workspace)
    dataset = stored(workspace, [pair_row(f"q{n}", "答" * (n % 50) * 40) for n in range(3000)])
    index = store.rows_path(dataset.dataset_id).with_name("rows.index")
    assert 16 * 100 < index.stat().st_size < 16 * 200
    for start in (1, 63, 1500, 2999):
        assert [row.instruction for row in store.page_rows(dataset.dataset_id, 2, str(start))[0]] == [
            f"q{n}" for n in range(start, min(start + 2, 3000))
        ]
    index.unlink()
    assert store.page_rows(dataset.dataset_id, 1, "2999")[0][0].instruction == "q2999"


def test_a_page_ends_before_it_has_too_many_bytes_and_has_one_row_at_least(workspace: Workspace) -> None:
    store = DatasetStore(workspace)
    dataset = stored(workspace, [pair_row("q", "x" * size) for size in (1000, 1000, 90_000, 1000)])
    first, cursor, _ = store.page_rows(dataset.dataset_id, 10, max_bytes=5000)
    second, cursor, _ = store.page_rows(dataset.dataset_id, 10, cursor, max_bytes=5000)
    third, end, _ = store.page_rows(dataset.dataset_id, 10, cursor, max_bytes=5000)
    assert [len(page) for page in (first, second, third)] == [2, 1, 1]
    assert end is None


def test_rows_that_are_gone_from_the_end_are_said_to_be(workspace: Workspace) -> None:
    dataset = stored(workspace, clean_rows(3))
    path = DatasetStore(workspace).rows_path(dataset.dataset_id)
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
    with pytest.raises(StoreCorrupt, match="end before row 2 of 3"):
        DatasetStore(workspace).page_rows(dataset.dataset_id, 1, "1")


def test_a_row_too_long_to_be_shown_is_cut_and_says_so() -> None:
    row = pair_row("q", "答" * 100_000, meta={"extra": {"numbers": list(range(10_000))}})
    short, left_out = shortened(row, 5000)
    assert len(short.model_dump_json()) <= 5000
    assert left_out > 100_000
    assert "characters left out]" in short.output
    assert "characters" in short.meta["left_out"]
    many = pair_row("q", "a").model_copy(update={"messages": [*pair_row("q", "a\n" * 3000).messages] * 500})
    assert len(shortened(many, 5000)[0].model_dump_json()) <= 5000
    assert shortened(pair_row("q", "a"), 5000) == (pair_row("q", "a"), 0)


def test_pieces_beside_the_rows_are_taken_after_them_and_none_make_no_file(workspace: Workspace) -> None:
    seen: list[str] = []

    def rows():
        for row in clean_rows(2):
            seen.append("row")
            yield row

    store = DatasetStore(workspace)
    dataset = store.create(
        rows(),
        name="n",
        created_by="t",
        extra_files={"a.jsonl": (b"%d\n" % len(seen) for _ in "x"), "b.jsonl": iter(())},
    )
    assert store.report_path(dataset.dataset_id, "a.jsonl").read_bytes() == b"2\n"
    assert not store.report_path(dataset.dataset_id, "b.jsonl").exists()


@pytest.mark.parametrize("dataset_id", ["", "ds_", "../x", "run_aaaaaaaaaaaa", "ds_AAAAAAAAAAAA", "ds_aaaaaaaaaaaa/.."])
def test_what_is_no_dataset_id_is_refused(workspace: Workspace, dataset_id: str) -> None:
    with pytest.raises(InvalidArgument):
        DatasetStore(workspace).get(dataset_id)


def test_an_unknown_dataset_is_not_found_before_anything_is_read(workspace: Workspace) -> None:
    with pytest.raises(NotFound, match="ds_aaaaaaaaaaaa"):
        DatasetStore(workspace).rows("ds_aaaaaaaaaaaa")


def test_rows_changed_behind_the_store_are_reported_by_line(workspace: Workspace) -> None:
    dataset = stored(workspace, clean_rows(3))
    path = DatasetStore(workspace).rows_path(dataset.dataset_id)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b'{"row_id": "r2", "mess\n' + lines[2])
    with pytest.raises(StoreCorrupt, match="Line 2"):
        list(DatasetStore(workspace).rows(dataset.dataset_id))
    path.unlink()
    with pytest.raises(StoreCorrupt, match="missing"):
        DatasetStore(workspace).rows(dataset.dataset_id)


@pytest.mark.parametrize("name", ["../x", "rows.jsonl", "rows.index", "manifest.json", ".hidden", "a/b", ""])
def test_a_report_is_a_plain_file_beside_the_rows(workspace: Workspace, name: str) -> None:
    dataset = stored(workspace, clean_rows(1))
    store = DatasetStore(workspace)
    assert store.write_report(dataset.dataset_id, "report.json", "{}").read_text(encoding="utf-8") == "{}"
    with pytest.raises(InvalidArgument):
        store.write_report(dataset.dataset_id, name, "x")


def test_extra_files_lie_beside_the_rows(workspace: Workspace) -> None:
    dataset = DatasetStore(workspace).create(
        clean_rows(1), name="n", created_by="t", extra_files={"skipped.jsonl": b"{}\n"}
    )
    assert DatasetStore(workspace).report_path(dataset.dataset_id, "skipped.jsonl").read_bytes() == b"{}\n"


def test_threads_can_store_at_the_same_time(workspace: Workspace) -> None:
    failures: list[Exception] = []

    def store_some(number: int) -> None:
        try:
            for each in range(5):
                stored(workspace, clean_rows(2, first=number * 10 + each))
        except Exception as error:  # noqa: BLE001  # handed to the test's own thread
            failures.append(error)
        finally:
            workspace.database.close()

    threads = [threading.Thread(target=store_some, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert failures == []
    assert DatasetStore(workspace).page(100)[2] == 20
    workspace.database.close()
