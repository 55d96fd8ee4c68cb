"""Models: list, export, register, ask, compare, score by hand."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import anyio.to_thread
from pydantic import Field

from tunesmith.errors import InvalidArgument, UserError
from tunesmith.evaluation.human import ScoreEntry
from tunesmith.evaluation.records import AskResult, Comparison
from tunesmith.evaluation.request import AskedQuestion, LabelledModel
from tunesmith.machine.ollama import OllamaClient
from tunesmith.models.store import ModelStore
from tunesmith.runs.records import Record, Run
from tunesmith.tools.services import CURSOR, LIMIT, MODEL, TRAINED, WAIT, Services, ToolSpec, fitting, start

MOST_SCORES = 1000  # in one call; a sheet of any length is read by `tunesmith record-scores`


class ListedModel(Record):
    """A model that can be named."""

    model: str = Field(description="The reference to use in other tools.")
    kind: Literal["trained", "base", "ollama"] = Field(description="Where it comes from.")
    name: str
    base_model: str | None = Field(default=None, description="Of a trained model.")
    parameters_b: float | None = Field(default=None, description="Billions.")
    gib: float | None = Field(default=None, description="Size on disk; for a base its 16-bit weights, GiB.")
    files: list[str] = Field(default_factory=list, description="What there is of a trained model.")
    licence: str | None = None
    languages: list[str] = Field(default_factory=list)
    needs_gib: dict[str, float] = Field(
        default_factory=dict, description="Of a base: peak memory of training it, GiB, by method; rank 16, batch 1."
    )
    fits: list[str] = Field(default_factory=list, description="Of a base: the methods that this machine can train.")
    gated: bool = Field(default=False, description="Its makers must grant access on the Hub before it is fetched.")
    here: bool | None = Field(default=None, description="Of a base: whether its weights are on this machine.")


class ModelPage(Record):
    """Trained models first, then Ollama's, then bases."""

    models: list[ListedModel]
    next_cursor: str | None = Field(description="For the next page; null on the last.")
    total: int
    notes: list[str] = Field(description="What could not be listed, and why.")


def _bases(services: Services) -> list[ListedModel]:
    from tunesmith.machine.check import check_machine
    from tunesmith.training.base_choice import table
    from tunesmith.training.hardware import find_hardware

    machine = check_machine(services.workspace, ollama_host=services.ollama_host)
    return [
        ListedModel(
            model=entry.base.model_id,
            kind="base",
            name=entry.base.family,
            parameters_b=entry.base.parameters_b,
            gib=round(entry.base.download_gb * 1e9 / 2**30, 2),
            licence=entry.base.licence,
            languages=list(entry.base.languages),
            needs_gib={way.method: way.needs_gib for way in entry.ways},
            fits=[way.method for way in entry.ways if way.fits != "no"],
            gated=entry.base.gated,
            here=entry.here,
        )
        for entry in table(services.workspace, find_hardware(machine, None, None))
    ]


def tools(services: Services) -> list[ToolSpec]:
    workspace = services.workspace
    store = ModelStore(workspace)

    def everything() -> tuple[list[ListedModel], list[str]]:
        found, notes = [], []
        cursor: str | None = None
        while True:
            records, cursor, _ = store.page(100, cursor)
            for record in records:
                files = [f"{file.kind} {file.quantization or ''}".strip() for file in record.files]
                size = sum(file.bytes for file in record.files) / 2**30
                found.append(
                    ListedModel(
                        model=record.model_id,
                        kind="trained",
                        name=record.name,
                        base_model=record.base_model,
                        gib=round(size, 3),
                        files=sorted(set(files)),
                    )
                )
            if cursor is None:
                break
        try:
            with OllamaClient(services.ollama_host, connect_timeout_s=1) as client:
                found += [
                    ListedModel(model=f"ollama:{tag.name}", kind="ollama", name=tag.name) for tag in client.tags()
                ]
        except UserError as error:
            notes.append(f"Ollama's models are not listed: {error.message}")
        found += _bases(services)
        return found, notes

    def list_models(limit: Annotated[int, LIMIT] = 20, cursor: Annotated[str | None, CURSOR] = None) -> ModelPage:
        """Models trained here, in Ollama, and the bases the planner knows.

        Use this when you need a model's name. Example: list_models(). Next: plan_training or ask_model.
        """
        found, notes = everything()
        if cursor is not None and not (cursor.isascii() and cursor.isdigit() and int(cursor[:9]) <= len(found)):
            raise InvalidArgument("cursor is not one that list_models gave.", next="Leave it out for the first page.")
        first = int(cursor or 0)
        page = found[first : first + limit]
        after = first + fitting(page)
        following = str(after) if after < len(found) else None
        return ModelPage(models=found[first:after], next_cursor=following, total=len(found), notes=notes)

    async def export_gguf(
        model: Annotated[str, TRAINED],
        quantizations: Annotated[
            list[str] | None, Field(max_length=8, description="Default q4_k_m.", examples=[["q4_k_m", "q8_0"]])
        ] = None,
        adapter_only: Annotated[bool, Field(description="The LoRA alone as GGUF.")] = False,
        verify: Annotated[bool, Field(description="Measure what quantisation costs.")] = True,
        wait_s: Annotated[float, WAIT] = 20,
    ) -> Run:
        """Merge, convert and quantise a trained model, with the loss from quantisation measured.

        Use this when training succeeded. Example: export_gguf(model="run_…"). Next: register_ollama.
        """
        from tunesmith.export.quantizations import check_quantizations

        checked = check_quantizations(quantizations, adapter_only=adapter_only)
        record = await anyio.to_thread.run_sync(store.resolve, model)
        args = {
            "model_id": record.model_id,
            "quantizations": list(checked),
            "adapter_only": adapter_only,
            "verify": verify,
        }
        return await start(services, "export", "export", args, wait_s)

    async def register_ollama(
        model: Annotated[str, TRAINED],
        name: Annotated[str, Field(min_length=1, max_length=200, description="Name in Ollama.", examples=["my-notes"])],
        quantization: Annotated[
            str, Field(max_length=200, description="Exported file, adapter, or adapter@BASE.")
        ] = "q4_k_m",
        system: Annotated[str | None, Field(max_length=20_000, description="System prompt.")] = None,
        parameters: Annotated[dict[str, Any] | None, Field(description="E.g. temperature, num_ctx.")] = None,
        host: Annotated[str | None, Field(max_length=300, description="Address of Ollama.")] = None,
        replace: Annotated[bool, Field(description="Replace a model of that name.")] = False,
        wait_s: Annotated[float, WAIT] = 20,
    ) -> Run:
        """Put an exported model into Ollama with the prompt it was trained on, proven.

        Use this when a GGUF is there. Example: register_ollama(model="run_…", name="my-notes").
        Next: compare_models.
        """
        from tunesmith.export.ollama_wanted import check_request, wanted

        request = check_request(name, quantization, parameters, system=system, host=host)
        record = await anyio.to_thread.run_sync(store.resolve, model)
        await anyio.to_thread.run_sync(wanted, workspace, record, request)
        args = {
            "model_id": record.model_id,
            "name": name,
            "quantization": quantization,
            "system": system,
            "parameters": request.parameters,
            "host": host or services.ollama_host,
            "replace": replace,
        }
        return await start(services, "register", "export", args, wait_s)

    def ask_model(
        model: Annotated[str, MODEL],
        prompt: Annotated[str, Field(min_length=1, max_length=20_000, description="What to ask.", examples=["Hello"])],
        system: Annotated[str | None, Field(max_length=20_000, description="System message.")] = None,
        max_tokens: Annotated[int, Field(ge=1, le=4096, description="Longest reply, tokens.")] = 256,
        temperature: Annotated[float, Field(ge=0, le=2, description="0: always the likeliest.")] = 0,
    ) -> AskResult:
        """One question to one model.

        Use this when you want to hear it. Example: ask_model(model="embedded", prompt="Hello").
        Next: compare_models.
        """
        from tunesmith.evaluation.ask import ask_model as ask

        return ask(
            workspace,
            model,
            prompt,
            system=system,
            max_tokens=max_tokens,
            temperature=temperature,
            ollama_host=services.ollama_host,
            warm=services.warm,
        )

    async def compare_models(
        models: Annotated[
            list[LabelledModel],
            Field(
                min_length=1,
                max_length=8,
                description="{label, model} each.",
            ),
        ],
        questions: Annotated[
            list[str | AskedQuestion] | None, Field(max_length=10_000, description="Texts, or {question, reference}.")
        ] = None,
        dataset_id: Annotated[
            str | None, Field(max_length=60, description="Ask its eval split; instead of questions.")
        ] = None,
        judge: Annotated[
            dict[str, Any] | None, Field(description="{model, base_url?}, not one of models: scores blind.")
        ] = None,
        repetitions: Annotated[int, Field(ge=1, le=20, description="Times each is asked.")] = 1,
        temperature: Annotated[float, Field(ge=0, le=2, description="0: always the likeliest.")] = 0,
        max_tokens: Annotated[int, Field(ge=1, le=8192, description="Longest reply, tokens.")] = 500,
        seed: Annotated[int, Field(ge=0, le=2**31 - 1, description="Of sampling and intervals.")] = 42,
        max_questions: Annotated[int | None, Field(ge=1, le=10_000, description="Draw so many; confirms many.")] = None,
        wait_s: Annotated[float, WAIT] = 20,
    ) -> Run:
        """Same questions to several models: scores with intervals and a verdict that may be "no evidence".

        Use this when you want to know whether it was worth it. Example:
        compare_models(models=[{"label": "tuned", "model": "run_…"}, …], dataset_id="ds_…"). Next: read the report.
        """
        from tunesmith.evaluation.request import check_request, read_request

        asked = None
        if questions is not None:
            asked = [q if isinstance(q, str) else q.model_dump() for q in questions]
        args: dict[str, Any] = {
            "models": [entry.model_dump() for entry in models],
            "questions": asked,
            "dataset_id": dataset_id,
            "judge": judge,
            "repetitions": repetitions,
            "temperature": temperature,
            "max_tokens": max_tokens,
            "seed": seed,
            "max_questions": max_questions,
        }
        await anyio.to_thread.run_sync(lambda: check_request(workspace, read_request(args), services.ollama_host))
        args["ollama_host"] = services.ollama_host
        return await start(services, "compare", "evaluation", args, wait_s)

    def record_scores(
        comparison_id: Annotated[str, Field(max_length=60, description="A comparison.")],
        scores: Annotated[
            list[ScoreEntry],
            Field(
                min_length=1,
                max_length=MOST_SCORES,
                description="One an answer, from 1 (worst) to 5; it replaces an earlier one.",
            ),
        ],
    ) -> Comparison:
        """What people say of answers, beside the judge's scores, with their agreement.

        Use this when the user has scored answers; never score for them.
        Example: record_scores(comparison_id="cmp_…", scores=[…]). Next: read the report.
        """
        from tunesmith.evaluation.human import record_scores as record

        found = record(workspace, comparison_id, scores)
        # The answers were read before they were scored; with them the result of many models would not fit.
        return found.model_copy(update={"samples": [], "samples_left_out": found.questions})

    return [
        ToolSpec(list_models, "List models", read_only=True, idempotent=True),
        ToolSpec(export_gguf, "Export GGUF"),
        ToolSpec(register_ollama, "Register in Ollama", destructive=True, open_world=True),
        ToolSpec(ask_model, "Ask a model", read_only=True, open_world=True),
        ToolSpec(compare_models, "Compare models", open_world=True),
        ToolSpec(record_scores, "Record scores by people", idempotent=True),
    ]
