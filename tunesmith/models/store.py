"""Trained models on disk and in the database.

A model is a folder `models/MDL_ID/` and one row of the `models` table. The row is
what counts; `manifest.json` in the folder repeats it for people and for backups.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tunesmith.errors import Conflict, InvalidArgument, NotFound
from tunesmith.files import write_atomic
from tunesmith.models.records import FileKind, ModelFile, ModelRecord
from tunesmith.workspace import Workspace, check_id, new_id

MANIFEST_FILE = "manifest.json"
MAX_NAME_CHARS = 120
_CONTROL = re.compile(r"[\x00-\x1f\x7f]+")
_ENDED_WITHOUT_MODEL = {"failed", "cancelled", "lost", "succeeded"}


class ModelStore:
    """The models of one workspace. Safe to use from several threads and processes."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace

    def new(
        self,
        *,
        name: str,
        base_model: str,
        method: str,
        prompt_format: Mapping[str, Any],
        recipe: Mapping[str, Any],
        run_id: str | None = None,
        dataset_id: str | None = None,
        training: Mapping[str, Any] | None = None,
        lineage: Iterable[Mapping[str, Any]] = (),
        base_licence: str | None = None,
        model_id: str | None = None,
    ) -> ModelRecord:
        """Store a model that has no files yet, with its folder.

        Args:
            name: for people; control characters are removed, 120 characters are kept.
            prompt_format: `PromptFormat.as_record()`.
            recipe: the resolved hyperparameters.
            training: figures of the run.
            lineage: the dataset and what it was made from, nearest first.
            base_licence: of the base, None where it is not known.
            model_id: where the folder was filled before the model is shown: its id, from `new_id("mdl")`.

        Raises:
            Conflict: there is a model of that id.
        """
        model_id = check_id("mdl", model_id) if model_id else new_id("mdl")
        record = ModelRecord(
            model_id=model_id,
            name=_CONTROL.sub(" ", name).strip()[:MAX_NAME_CHARS] or model_id,
            run_id=run_id,
            dataset_id=dataset_id,
            base_model=base_model,
            method=method,
            prompt_format=dict(prompt_format),
            recipe=dict(recipe),
            created_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
            training=dict(training or {}),
            lineage=[dict(entry) for entry in lineage],
            base_licence=base_licence,
            resources=[f"models://{model_id}", f"models://{model_id}/modelfile"],
        )
        folder = self.workspace.models / model_id
        made = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with self.workspace.database.transaction() as connection:
                if connection.execute("SELECT 1 FROM models WHERE id = ?", (model_id,)).fetchone():
                    raise Conflict(f"There is a model {model_id} already.", next=f"Use update for {model_id}.")
                connection.execute(
                    "INSERT INTO models (id, run_id, created_at, manifest) VALUES (?, ?, ?, ?)",
                    (model_id, run_id, record.created_at, record.model_dump_json()),
                )
                self._write_manifest(record)
        except BaseException:
            if made:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        return record

    def get(self, model_id: str) -> ModelRecord:
        """One model.

        Raises:
            InvalidArgument: not a model id.
            NotFound: there is none of that id.
        """
        check_id("mdl", model_id)
        found = self.workspace.database.read("SELECT manifest FROM models WHERE id = ?", (model_id,))
        if not found:
            raise _unknown(model_id)
        return ModelRecord.model_validate_json(found[0]["manifest"])

    def folder(self, model_id: str) -> Path:
        """The model's folder. Raises as `get`."""
        self.get(model_id)
        return self.workspace.models / model_id

    def by_run(self, run_id: str) -> ModelRecord | None:
        """The newest model that a run made, or None.

        Raises:
            InvalidArgument: not a run id.
        """
        check_id("run", run_id)
        found = self.workspace.database.read(
            "SELECT manifest FROM models WHERE run_id = ? ORDER BY seq DESC LIMIT 1", (run_id,)
        )
        return ModelRecord.model_validate_json(found[0]["manifest"]) if found else None

    def update(
        self,
        model_id: str,
        *,
        add_files: Iterable[ModelFile] = (),
        remove_files: Iterable[str] = (),
        training: Mapping[str, Any] | None = None,
        lineage: Iterable[Mapping[str, Any]] = (),
        base_licence: str | None = None,
        name: str | None = None,
    ) -> ModelRecord:
        """Change what is known of a model. Two processes that add files at once lose none.

        Args:
            add_files: a file with the path of an older one takes its place.
            remove_files: paths that are there no longer.
            training: figures to add to those there are.
            lineage, base_licence: kept where nothing was known of them so far.

        Raises: as `get`.
        """
        check_id("mdl", model_id)
        added = list(add_files)
        gone = {*remove_files, *(file.path for file in added)}
        with self.workspace.database.transaction() as connection:
            found = connection.execute("SELECT manifest FROM models WHERE id = ?", (model_id,)).fetchone()
            if found is None:
                raise _unknown(model_id)
            record = ModelRecord.model_validate_json(found["manifest"])
            record.files = [file for file in record.files if file.path not in gone] + added
            record.training = {**record.training, **(training or {})}
            record.lineage = record.lineage or [dict(entry) for entry in lineage]
            record.base_licence = record.base_licence or base_licence
            if name is not None:
                record.name = _CONTROL.sub(" ", name).strip()[:MAX_NAME_CHARS] or model_id
            connection.execute("UPDATE models SET manifest = ? WHERE id = ?", (record.model_dump_json(), model_id))
            self._write_manifest(record)
        return record

    def page(self, limit: int, cursor: str | None = None) -> tuple[list[ModelRecord], str | None, int]:
        """Models, newest first: at most `limit`, the cursor of the next page or None, and how many there are.

        Raises:
            InvalidArgument: `limit` below 1, or a cursor that no page returned.
        """
        if limit < 1:
            raise InvalidArgument(f"limit is {limit}; a page has at least 1 entry.", next="Use a limit from 1 to 100.")
        if cursor is not None and not re.fullmatch(r"[1-9][0-9]{0,17}", cursor, re.ASCII):
            raise InvalidArgument(
                f"{cursor[:60]!r} is not a cursor of this list.",
                next="Call list_models without a cursor, then pass the next_cursor it returns.",
            )
        before = int(cursor) if cursor is not None else 2**62
        database = self.workspace.database
        total = int(database.read("SELECT COUNT(*) AS n FROM models")[0]["n"])
        found = database.read(
            "SELECT seq, manifest FROM models WHERE seq < ? ORDER BY seq DESC LIMIT ?", (before, limit + 1)
        )
        records = [ModelRecord.model_validate_json(line["manifest"]) for line in found[:limit]]
        following = str(found[limit - 1]["seq"]) if len(found) > limit else None
        return records, following, total

    def resolve(self, text: str) -> ModelRecord:
        """The model named by a model id, or by the id of the run that trained it.

        Raises:
            InvalidArgument: neither kind of id.
            NotFound: there is no such model or run, or the run ended without a model.
            Conflict: the run has not ended yet.
        """
        if not text.startswith("run_"):
            return self.get(text)
        record = self.by_run(text)
        if record is not None:
            return record
        found = self.workspace.database.read("SELECT kind, state FROM runs WHERE run_id = ?", (text,))
        if not found:
            raise NotFound(
                f"There is no run {text} in this workspace.", next="Call list_runs to see the runs there are."
            )
        kind, state = found[0]["kind"], found[0]["state"]
        if kind != "train":
            raise NotFound(
                f"Run {text} is of kind {kind}; only a training run makes a model.",
                next="Call list_models, or list_runs with kind='train'.",
            )
        if state not in _ENDED_WITHOUT_MODEL:
            raise Conflict(
                f"Run {text} is {state}; its model is there when it has succeeded.",
                next=f"Call get_run with run_id='{text}' and wait_s=50 until its state is succeeded.",
            )
        raise NotFound(
            f"Run {text} ended as {state} and left no model.",
            next=f"Call diagnose_run with run_id='{text}', then resume_run or start_training.",
        )

    def _write_manifest(self, record: ModelRecord) -> None:
        content = json.dumps(record.model_dump(mode="json"), ensure_ascii=False, indent=2)
        write_atomic(self.workspace.models / record.model_id / MANIFEST_FILE, content + "\n")


def describe_file(folder: Path, path: Path, kind: FileKind, quantization: str | None = None) -> ModelFile:
    """The entry for a file or folder inside a model's folder: size and digest of what is there now.

    Args:
        folder: the model's folder.
        path: below it.
    """
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        listing = "".join(f"{_sha256(file)}  {file.relative_to(path).as_posix()}\n" for file in files)
        size = sum(file.stat().st_size for file in files)
        digest = hashlib.sha256(listing.encode()).hexdigest()
    else:
        size, digest = path.stat().st_size, _sha256(path)
    return ModelFile(
        kind=kind, quantization=quantization, path=path.relative_to(folder).as_posix(), bytes=size, sha256=digest
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unknown(model_id: str) -> NotFound:
    return NotFound(
        f"There is no model {model_id} in this workspace.", next="Call list_models to see the models there are."
    )
