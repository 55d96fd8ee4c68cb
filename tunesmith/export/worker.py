"""The process that exports a model or registers it in Ollama: `python -m tunesmith.export.worker RUN_DIR`."""

from __future__ import annotations

import os
import random
import time

from tunesmith.data.lineage import lineage
from tunesmith.data.records import Row
from tunesmith.data.store import DatasetStore
from tunesmith.errors import NotFound
from tunesmith.export.child import PATIENT
from tunesmith.export.dialogues import ANSWERED
from tunesmith.export.exporting import HeldOut, export_model
from tunesmith.export.ollama_register import SMOKE_PROMPT, register_model
from tunesmith.export.records import ExportResult, RegisterResult
from tunesmith.models.records import ModelRecord
from tunesmith.models.store import ModelStore
from tunesmith.models.without_bitsandbytes import leave_out_bitsandbytes
from tunesmith.work import PROGRESS_INTERVAL_S, Work, run_worker

ROWS_AT_MOST = 200  # of which a part is used: as many as the token limit takes
TRAINING_ROWS_AT_MOST = 1000  # how long their answers are, and what an importance matrix is collected from
SEED = 42


def export(work: Work) -> ExportResult:
    """Kind export: args model_id, quantizations, adapter_only, verify."""
    args = work.args
    record = ModelStore(work.workspace).get(args["model_id"])
    if record.method != "qlora":
        leave_out_bitsandbytes()
    return export_model(
        work.workspace,
        record.model_id,
        quantizations=args.get("quantizations"),
        adapter_only=args.get("adapter_only", False),
        held_out=held_out(work, record) if args.get("verify", True) else None,
        lineage=lineage(work.workspace, record.dataset_id),
        progress=_Voice(work),
        check=work.check_cancelled,
    )


def register(work: Work) -> RegisterResult:
    """Kind register: args model_id, name, quantization, system, parameters, host, replace."""
    args = work.args
    record = ModelStore(work.workspace).get(args["model_id"])
    return register_model(
        work.workspace,
        record.model_id,
        name=args["name"],
        quantization=args.get("quantization", "q4_k_m"),
        system=args.get("system"),
        parameters=args.get("parameters"),
        host=args.get("host"),
        replace=args.get("replace", False),
        smoke_prompt=_question(held_out(work, record)),
        progress=_Voice(work),
        check=work.check_cancelled,
    )


def held_out(work: Work, record: ModelRecord) -> HeldOut:
    """What to verify on: the dataset's eval split, else rows of all of it, else dialogues of our own.

    Drawn from the seed, so that a small number of them stands for all.
    """
    rows = _rows(work, record.dataset_id) if record.dataset_id else []
    chosen = [row for row in rows if row.split == "eval"]
    if not rows:
        return HeldOut(ANSWERED, "builtin")
    drawn = _drawn(chosen or rows, ROWS_AT_MOST)
    seen = {row.row_id for row in chosen or drawn}
    training = _drawn([row for row in rows if row.row_id not in seen], TRAINING_ROWS_AT_MOST)
    return HeldOut(
        [row.messages for row in drawn], "eval" if chosen else "dataset", training=[row.messages for row in training]
    )


def _drawn(rows: list[Row], at_most: int) -> list[Row]:
    return rows if len(rows) <= at_most else random.Random(SEED).sample(rows, at_most)


def _question(texts: HeldOut) -> str:
    """The first question of the held-out rows: what the model is made for."""
    if texts.split == "builtin":
        return SMOKE_PROMPT
    users = (m.content for m in texts.conversations[0] if m.role == "user")
    return next(users, SMOKE_PROMPT)[:2000]


def _rows(work: Work, dataset_id: str) -> list[Row]:
    try:
        return list(DatasetStore(work.workspace).rows(dataset_id))
    except NotFound:
        return []


class _Voice:
    """Tells the log and whoever watches what is being done."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.step = 0
        self.spoke_at = 0.0

    def __call__(self, message: str, step: int, steps: int) -> None:
        print(message, flush=True)
        if step != self.step:
            # Progress that follows too closely is dropped, and the next step may take minutes.
            time.sleep(max(0.0, self.spoke_at + PROGRESS_INTERVAL_S - time.monotonic()))
        self.work.progress(message, step=step, total_steps=steps)
        self.step, self.spoke_at = step, time.monotonic()


if __name__ == "__main__":
    # Read by torch's thread library when it is loaded, which is later.
    for variable, value in PATIENT.items():
        os.environ.setdefault(variable, value)
    run_worker({"export": export, "register": register})
