"""One answer by transformers, in a process of its own: a job on standard input, a line of JSON on standard output."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tunesmith.data.records import Message
from tunesmith.errors import UserError
from tunesmith.evaluation.contestants import contestant
from tunesmith.evaluation.torch_asker import TorchAsker
from tunesmith.evaluation.torch_model import TorchModel
from tunesmith.models.endpoints import AskFailed, Draw
from tunesmith.workspace import Workspace


def answer(job: dict[str, Any]) -> dict[str, Any]:
    """`{"reply": …}`, or `{"error": {code, message, next}}` where the caller can do something about it."""
    workspace = Workspace(Path(job["workspace"]), [Path(root) for root in job["roots"]])
    try:
        one = contestant(workspace, job["model"], job["model"])
        asker = TorchAsker(TorchModel(one.weights_folder()), one)
        reply = asker.ask([Message(**message) for message in job["messages"]], Draw(**job["draw"]))
    except UserError as error:
        return {"error": error.as_record()}
    except AskFailed as error:
        advice = "Ask something shorter."
        return {"error": {"code": "service_failed", "message": f"{job['model']}: {error}.", "next": advice}}
    return {"reply": asdict(reply)}


if __name__ == "__main__":
    print("\n" + json.dumps(answer(json.load(sys.stdin))), flush=True)
