"""Resources: datasets, runs, models and comparisons, as they are now."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import anyio.to_thread
from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ResourceError, ResourceNotFoundError
from mcp_types import Resource

from tunesmith.data.store import DatasetStore
from tunesmith.errors import InvalidArgument, NotFound, UserError
from tunesmith.evaluation.store import ComparisonStore
from tunesmith.models.store import ModelStore
from tunesmith.resources import dataset_views
from tunesmith.resources.loss_plot import loss_svg
from tunesmith.runs import log, measurements
from tunesmith.runs.states import TERMINAL
from tunesmith.runs.supervisor import Supervisor
from tunesmith.workspace import Workspace

LISTED = 50
POINTS_SHOWN = 500
POINTS_DRAWN = 640  # the plot has as many pixels
F = TypeVar("F", bound=Callable[..., Any])
JSON = "application/json"


def register(server: MCPServer, workspace: Workspace, runs: Supervisor, ollama_host: str | None) -> None:
    """Add the templates."""
    datasets, models, comparisons = DatasetStore(workspace), ModelStore(workspace), ComparisonStore(workspace)

    @server.resource("datasets://{dataset_id}", title="A dataset", mime_type=JSON)
    @_explained
    def dataset(dataset_id: str) -> str:
        return datasets.get(dataset_id).model_dump_json(indent=1)

    @server.resource("datasets://{dataset_id}/rows{?cursor}", title="Rows of a dataset", mime_type=JSON)
    @_explained
    def rows(dataset_id: str, cursor: str | None = None) -> str:
        return dataset_views.rows_page(datasets, dataset_id, cursor)

    @server.resource("datasets://{dataset_id}/report{?cursor}", title="Score of a dataset", mime_type=JSON)
    @_explained
    def report(dataset_id: str, cursor: str | None = None) -> str:
        return dataset_views.report_page(datasets, dataset_id, cursor)

    @server.resource("runs://{run_id}", title="A run", mime_type=JSON)
    @_explained
    def run(run_id: str) -> str:
        return runs.view(run_id).model_dump_json(indent=1)

    @server.resource("runs://{run_id}/log{?offset}", title="Log of a run", mime_type="text/plain")
    @_explained
    def run_log(run_id: str, offset: str | None = None) -> str:
        finished = runs.row(run_id).state in TERMINAL
        at = _byte(offset) if offset is not None else None
        path = runs.folder(run_id) / "log.txt"
        piece = log.read(path, at, finished=finished)
        if at is not None and at > piece.size:
            raise InvalidArgument(
                f"offset {at} lies beyond the end of the log, which has {piece.size} bytes.",
                next=f"Give offset={piece.size} to wait for more, or leave it out for the end of the log.",
            )
        return _with_place(piece, log.before(path, piece.start), f"runs://{run_id}/log", finished)

    @server.resource("runs://{run_id}/metrics{?offset}", title="Measurements of a run", mime_type=JSON)
    @_explained
    def metrics(run_id: str, offset: str | None = None) -> str:
        runs.row(run_id)
        path, uri = runs.folder(run_id) / "metrics.jsonl", f"runs://{run_id}/metrics"
        if offset is not None:
            points, following = measurements.page(path, _byte(offset), POINTS_SHOWN)
            if following is not None:
                # A field of the last point, so that the list holds points and nothing else.
                points = [*points[:-1], {**(points[-1] if points else {}), "next": f"{uri}?offset={following}"}]
            return json.dumps(points)
        sample = measurements.sample(path, POINTS_SHOWN)
        if sample.left_out:
            left = {"points_left_out": sample.left_out, "all_points": f"{uri}?offset=0"}
            return json.dumps([{**sample.points[0], **left}, *sample.points[1:]] if sample.points else [left])
        return json.dumps(sample.points)

    @server.resource("runs://{run_id}/loss.svg", title="Loss curve", mime_type="image/svg+xml")
    @_explained
    def loss(run_id: str) -> str:
        runs.row(run_id)
        return loss_svg(measurements.sample(runs.folder(run_id) / "metrics.jsonl", POINTS_DRAWN).points)

    @server.resource("models://{model_id}", title="A model", mime_type=JSON)
    @_explained
    def model(model_id: str) -> str:
        return models.get(model_id).model_dump_json(indent=1)

    @server.resource("models://{model_id}/modelfile", title="Modelfile", mime_type="text/plain")
    @_explained
    def modelfile(model_id: str) -> str:
        folder = models.folder(model_id)
        path = next((folder / name for name in ("Modelfile", "Modelfile.adapter") if (folder / name).exists()), None)
        if path is None:
            raise NotFound("There is no Modelfile yet.", next=f'Call export_gguf(model="{model_id}").')
        return path.read_text(encoding="utf-8")

    @server.resource("comparisons://{comparison_id}", title="A comparison", mime_type=JSON)
    @_explained
    def comparison(comparison_id: str) -> str:
        return comparisons.get(comparison_id).model_dump_json(indent=1, by_alias=True)

    @server.resource("comparisons://{comparison_id}/report", title="Report of a comparison", mime_type="text/markdown")
    @_explained
    def comparison_report(comparison_id: str) -> str:
        return comparisons.report(comparison_id)

    @server.resource("machine://bases{?gib}", title="Base models and what fits", mime_type=JSON)
    @_explained
    def bases(gib: str | None = None) -> str:
        from tunesmith.resources.base_views import bases_page

        return bases_page(workspace, ollama_host, gib)

    @server.resource("machine://gpu", title="This machine", mime_type=JSON)
    @_explained
    def gpu() -> str:
        from tunesmith.machine.check import check_machine

        return check_machine(workspace, ollama_host=ollama_host).model_dump_json(indent=1)


async def listed(workspace: Workspace, runs: Supervisor) -> list[Resource]:
    """What there is now, newest first, at most 50 of each kind."""
    return await anyio.to_thread.run_sync(_listed, workspace, runs)


def _listed(workspace: Workspace, supervisor: Supervisor) -> list[Resource]:
    try:
        datasets = DatasetStore(workspace).page(LISTED)[0]
        runs = supervisor.store.page(kind=None, state=None, limit=LISTED, before=None)[0]
        models = ModelStore(workspace).page(LISTED)[0]
        comparisons = ComparisonStore(workspace).page(LISTED)[0]
    except UserError as error:
        raise ResourceError(str(error)) from error
    return [
        _entry("machine://bases", "Base models", "which of them this machine can train", JSON),
        *(_entry(f"datasets://{item.dataset_id}", item.name, f"{item.rows} rows", JSON) for item in datasets),
        *(_entry(f"runs://{item.run_id}", f"{item.kind} {item.run_id}", item.state, JSON) for item in runs),
        *(_entry(f"models://{item.model_id}", item.name, f"trained from {item.base_model}", JSON) for item in models),
        *(
            _entry(
                f"comparisons://{item.comparison_id}/report", item.comparison_id, item.verdict.answer, "text/markdown"
            )
            for item in comparisons
        ),
    ]


def _byte(offset: str) -> int:
    if not (offset.isascii() and offset.isdigit() and len(offset) <= 18):
        raise InvalidArgument(
            f"offset {offset[:40]!r} is not a number of bytes.",
            next="Give offset=0 for the beginning, or leave it out.",
        )
    return int(offset)


def _with_place(piece: log.Piece, before: int, uri: str, finished: bool) -> str:
    """The text and, as its last line in brackets, which bytes it is and where there is more."""
    rest = piece.size - piece.end
    if not rest:
        after = "the end" if finished else "the end so far"
    elif piece.end == piece.start:
        after = f"{rest} bytes after, a line that is still being written"
    else:
        after = f"{rest} bytes after"
    place = f"bytes {piece.start} to {piece.end} of {piece.size}, {after}; go on: {uri}?offset={piece.end}"
    if piece.start:
        place += f"; before: {uri}?offset={before}"
    text = piece.text if piece.text.endswith("\n") or not piece.text else f"{piece.text}\n"
    return f"{text}[{place}]"


def _entry(uri: str, name: str, description: str, mime_type: str) -> Resource:
    return Resource(uri=uri, name=name, description=description, mime_type=mime_type)


def _explained(function: F) -> F:
    """Our errors as the protocol's: unknown ids are "not found", the rest says what to do."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except (NotFound, InvalidArgument) as error:
            raise ResourceNotFoundError(str(error)) from error
        except UserError as error:
            raise ResourceError(str(error)) from error

    return call  # type: ignore[return-value]
