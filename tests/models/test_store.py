"""Trained models are stored once, found again, and lose no file."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from tunesmith.errors import Conflict, InvalidArgument, NotFound
from tunesmith.models.records import ModelFile, ModelRecord
from tunesmith.models.store import ModelStore, describe_file
from tunesmith.workspace import Workspace, new_id


def new(store: ModelStore, **changes: object) -> ModelRecord:
    arguments = {
        "name": "notes",
        "base_model": "embedded",
        "method": "lora",
        "prompt_format": {"name": "chat"},
        "recipe": {},
    }
    return store.new(**{**arguments, **changes})  # type: ignore[arg-type]


def add_run(workspace: Workspace, *, kind: str = "train", state: str = "succeeded") -> str:
    run_id = new_id("run")
    with workspace.database.transaction() as connection:
        connection.execute(
            "INSERT INTO runs (run_id, kind, state, created_at) VALUES (?, ?, ?, 'now')",
            (run_id, kind, state),
        )
    return run_id


def entry(path: str, size: int = 1) -> ModelFile:
    return ModelFile(kind="gguf", quantization="q8_0", path=path, bytes=size, sha256="0" * 64)


def test_a_stored_model_has_a_folder_and_can_be_read_again(workspace: Workspace) -> None:
    store = ModelStore(workspace)
    record = new(store, training={"steps": 3})
    assert store.get(record.model_id) == record
    assert store.folder(record.model_id).is_dir()
    manifest = json.loads((store.folder(record.model_id) / "manifest.json").read_text(encoding="utf-8"))
    assert ModelRecord.model_validate(manifest) == record


def test_a_folder_filled_before_is_taken_over_under_its_id(workspace: Workspace) -> None:
    store = ModelStore(workspace)
    model_id = new_id("mdl")
    (workspace.models / model_id / "adapter").mkdir(parents=True)
    assert new(store, model_id=model_id).model_id == model_id
    assert (store.folder(model_id) / "adapter").is_dir()
    with pytest.raises(Conflict):
        new(store, model_id=model_id)
    assert (store.folder(model_id) / "adapter").is_dir()


def test_a_name_is_cleaned_and_never_empty(workspace: Workspace) -> None:
    store = ModelStore(workspace)
    assert new(store, name="a\x1b[31m\nb").name == "a [31m b"
    unnamed = new(store, name=" \n ")
    assert unnamed.name == unnamed.model_id


def test_files_are_added_and_replaced_by_path(workspace: Workspace) -> None:
    store = ModelStore(workspace)
    model_id = new(store).model_id
    store.update(model_id, add_files=[entry("a.gguf"), entry("b.gguf")], training={"loss": 1.0})
    record = store.update(model_id, add_files=[entry("a.gguf", 2)], training={"steps": 4})
    assert {file.path: file.bytes for file in record.files} == {"a.gguf": 2, "b.gguf": 1}
    assert record.training == {"loss": 1.0, "steps": 4}
    assert [file.path for file in store.update(model_id, remove_files=["a.gguf"]).files] == ["b.gguf"]
    found = record.file("gguf", "q8_0")
    assert found is not None
    assert record.file("adapter") is None


def test_two_who_add_files_at_once_lose_none(workspace: Workspace) -> None:
    store = ModelStore(workspace)
    model_id = new(store).model_id

    def add(worker: int) -> None:
        for number in range(5):
            store.update(model_id, add_files=[entry(f"{worker}-{number}.gguf")])
        workspace.database.close()

    threads = [threading.Thread(target=add, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(store.get(model_id).files) == 20


def test_a_file_and_a_folder_are_described_by_size_and_digest(workspace: Workspace) -> None:
    store = ModelStore(workspace)
    folder = store.folder(new(store).model_id)
    (folder / "m.gguf").write_bytes(b"abc")
    described = describe_file(folder, folder / "m.gguf", "gguf", "f16")
    assert (described.path, described.bytes) == ("m.gguf", 3)
    assert described.sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    (folder / "adapter" / "deep").mkdir(parents=True)
    (folder / "adapter" / "deep" / "x").write_bytes(b"12")
    (folder / "adapter" / "y").write_bytes(b"3")
    first = describe_file(folder, folder / "adapter", "adapter")
    assert (first.path, first.bytes) == ("adapter", 3)
    (folder / "adapter" / "y").write_bytes(b"4")
    assert describe_file(folder, folder / "adapter", "adapter").sha256 != first.sha256


def test_a_model_is_found_by_its_run(workspace: Workspace) -> None:
    store = ModelStore(workspace)
    run_id = add_run(workspace)
    assert store.by_run(run_id) is None
    record = new(store, run_id=run_id)
    assert store.by_run(run_id) == record
    assert store.resolve(run_id) == store.resolve(record.model_id) == record


@pytest.mark.parametrize(
    ("kind", "state", "error", "advice"),
    [
        ("train", "running", Conflict, "get_run"),
        ("train", "queued", Conflict, "get_run"),
        ("train", "failed", NotFound, "diagnose_run"),
        ("extract", "succeeded", NotFound, "list_models"),
    ],
)
def test_a_run_without_a_model_says_what_to_do(
    workspace: Workspace, kind: str, state: str, error: type[Exception], advice: str
) -> None:
    run_id = add_run(workspace, kind=kind, state=state)
    with pytest.raises(error) as caught:
        ModelStore(workspace).resolve(run_id)
    assert advice in str(caught.value)


def test_what_is_not_there_is_not_found(workspace: Workspace) -> None:
    store = ModelStore(workspace)
    for call in (store.get, store.folder, store.resolve, store.update):
        with pytest.raises(NotFound, match="list_models"):
            call("mdl_" + "a" * 12)
        with pytest.raises(InvalidArgument):
            call("ds_" + "a" * 12)
    with pytest.raises(NotFound, match="list_runs"):
        store.resolve("run_" + "a" * 12)


def test_models_are_listed_in_pages_newest_first(workspace: Workspace) -> None:
    store = ModelStore(workspace)
    ids = [new(store).model_id for _ in range(5)]
    seen: list[str] = []
    cursor = None
    while True:
        records, cursor, total = store.page(2, cursor)
        assert total == 5
        seen += [record.model_id for record in records]
        if cursor is None:
            break
    assert seen == ids[::-1]
    for limit, bad in ((0, None), (2, "x"), (2, "-1"), (2, "٣")):
        with pytest.raises(InvalidArgument):
            store.page(limit, bad)


def test_a_model_whose_manifest_cannot_be_written_is_not_listed(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, content: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tunesmith.models.store.write_atomic", fail)
    with pytest.raises(OSError, match="No space"):
        new(ModelStore(workspace))
    assert ModelStore(workspace).page(10)[2] == 0
    assert list(workspace.models.iterdir()) == []
