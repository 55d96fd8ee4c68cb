"""Plan, start, watch, cancel, diagnose."""

from __future__ import annotations

from typing import Annotated, Any

import anyio.to_thread
from pydantic import Field

from tunesmith.errors import InvalidArgument
from tunesmith.machine.records import MachineReport
from tunesmith.runs import measurements
from tunesmith.runs.records import Kind, Record, Run, State
from tunesmith.tools.services import CURSOR, DATASET, LIMIT, RUN, WAIT, Services, ToolSpec, fitting, start, wait_for
from tunesmith.training.records import AssumedGpu, Diagnosis, Plan

RECIPE = Field(
    description="Any of: method, engine, prompt_format, rank, alpha, dropout, target_modules, epochs, max_steps, "
    "learning_rate, scheduler, warmup_steps, batch_size, gradient_accumulation, processes, max_length, packing, "
    "gradient_checkpointing, optimizer, weight_decay, max_grad_norm, eval_fraction, eval_steps, "
    "early_stopping_patience, save_steps, seed, memory_budget_gib, on_out_of_memory. The rest is chosen for you.",
    examples=[{"rank": 16, "epochs": 3}],
)
BASE = Field(max_length=500, description="auto, embedded, a Hub id or a local folder.", examples=["auto"])
KEY = Field(min_length=1, max_length=200, description="A retried call returns the same run.")


class RunPage(Record):
    """Runs, newest first."""

    runs: list[Run]
    next_cursor: str | None = Field(description="For the next page; null on the last.")
    total: int = Field(description="Runs in all.")


def tools(services: Services) -> list[ToolSpec]:
    workspace, runs = services.workspace, services.runs

    def planned(
        dataset_id: str,
        base_model: str,
        recipe: dict[str, Any] | None,
        assume_gpu: AssumedGpu | None,
        machine: MachineReport | None = None,
        *,
        estimate: bool = False,
    ) -> Plan:
        from tunesmith.machine.check import check_machine
        from tunesmith.training.planning import plan
        from tunesmith.training.recipe import parse_options

        options = parse_options(recipe or {})
        machine = machine or check_machine(workspace, ollama_host=services.ollama_host)
        return plan(
            workspace, dataset_id, base_model, options, assume_gpu=assume_gpu, machine=machine, estimate=estimate
        )

    def plan_training(
        dataset_id: Annotated[str, DATASET],
        base_model: Annotated[str, BASE] = "auto",
        recipe: Annotated[dict[str, Any] | None, RECIPE] = None,
        assume_gpu: Annotated[AssumedGpu | None, Field(description="Plan for a card you do not have.")] = None,
    ) -> Plan:
        """Recipe with a reason for each value, steps, tokens, peak memory with an interval, alternatives.

        Use this when you are about to train. Example: plan_training(dataset_id="ds_…"). Next: start_training.
        """
        return planned(dataset_id, base_model, recipe, assume_gpu, estimate=True)

    async def start_training(
        dataset_id: Annotated[str, DATASET],
        base_model: Annotated[str, BASE] = "auto",
        recipe: Annotated[dict[str, Any] | None, Field(description="As in plan_training.")] = None,
        idempotency_key: Annotated[str | None, KEY] = None,
        wait_s: Annotated[float, WAIT] = 0,
    ) -> Run:
        """Fine-tune in a process of its own that survives this chat.

        Use this when the plan is right. Example: start_training(dataset_id="ds_…"). Next: get_run.
        """
        from tunesmith.machine.check import check_machine
        from tunesmith.training.hardware import device_slots
        from tunesmith.training.planning import start_arguments
        from tunesmith.training.sharing import slots_needed

        def prepared() -> tuple[dict[str, Any], dict[str, dict[str, str]]]:
            if idempotency_key is not None and runs.store.with_key(idempotency_key) is not None:
                return {}, {}  # nothing will be started, and a plan made now could be another
            machine = check_machine(workspace, ollama_host=services.ollama_host)
            return start_arguments(planned(dataset_id, base_model, recipe, None, machine)), device_slots(machine)

        args, slots = await anyio.to_thread.run_sync(prepared)
        return await start(
            services,
            "train",
            "training",
            args,
            wait_s,
            slots=list(slots),
            slots_needed=slots_needed(args["recipe"]["processes"], slots) if args else 1,
            environment=slots,
            idempotency_key=idempotency_key,
            request={"dataset_id": dataset_id, "base_model": base_model, "recipe": recipe or {}},
        )

    async def resume_run(
        run_id: Annotated[str, RUN],
        recipe_changes: Annotated[dict[str, Any], Field(description="epochs, learning_rate, batch_size …")] = {},
        idempotency_key: Annotated[str | None, KEY] = None,
        wait_s: Annotated[float, WAIT] = 0,
    ) -> Run:
        """Go on, exactly, from the newest checkpoint of a training run that ended.

        Use this when one failed, was lost or cancelled, or needs more epochs. Example: resume_run(run_id="run_…").
        Next: get_run.
        """
        from tunesmith.training import resuming

        new_id = await anyio.to_thread.run_sync(
            lambda: resuming.resume_run(runs, run_id, recipe_changes, idempotency_key=idempotency_key)
        )
        return await wait_for(services, new_id, wait_s)

    async def get_run(
        run_id: Annotated[str, RUN],
        wait_s: Annotated[float, WAIT] = 0,
        log_lines: Annotated[int, Field(ge=0, le=200, description="Lines of the log's end.")] = 20,
    ) -> Run:
        """Where a run stands: progress, log tail, result or error.

        Use this when a run goes on. Example: get_run(run_id="run_…", wait_s=30). Next: as `next` says.
        """
        return await wait_for(services, run_id, wait_s, log_lines=log_lines, metrics=True)

    def list_runs(
        kind: Annotated[Kind | None, Field(description="Only this kind.")] = None,
        state: Annotated[State | None, Field(description="Only this state.")] = None,
        limit: Annotated[int, LIMIT] = 20,
        cursor: Annotated[str | None, CURSOR] = None,
    ) -> RunPage:
        """Runs, newest first, without their results.

        Use this when you need an id. Example: list_runs(kind="train"). Next: get_run.
        """
        found, following, total = runs.page(kind=kind, state=state, limit=limit, cursor=cursor)
        if (kept := fitting(found)) < len(found):
            found, following, total = runs.page(kind=kind, state=state, limit=kept, cursor=cursor)
        return RunPage(runs=found, next_cursor=following, total=total)

    def cancel_run(run_id: Annotated[str, RUN]) -> Run:
        """End a run; training saves a checkpoint first.

        Use this when a run is not wanted any more. Example: cancel_run(run_id="run_…"). Next: get_run.
        """
        runs.cancel(run_id)
        return runs.view(run_id)

    def diagnose_run(run_id: Annotated[str, RUN]) -> Diagnosis:
        """What a training run shows: symptoms with their numbers and one change to make.

        Use this when training ended or looks wrong. Example: diagnose_run(run_id="run_…").
        Next: start_training with the suggested recipe.
        """
        from tunesmith.training import facts
        from tunesmith.training.diagnosis import diagnose

        run = runs.view(run_id, log_lines=0)
        if run.kind != "train":
            raise InvalidArgument(
                f"{run_id} is a run of kind {run.kind}.", next='Give a training run; list_runs(kind="train") has them.'
            )
        error = run.error.model_dump() if run.error else None
        recipe = runs.spec(run_id).get("args", {}).get("recipe", {})
        folder = runs.folder(run_id)
        metrics = measurements.records(folder / "metrics.jsonl")
        return diagnose(metrics, run.result, error, recipe, facts.read(folder))

    return [
        ToolSpec(plan_training, "Plan a training run", read_only=True, idempotent=True),
        ToolSpec(start_training, "Start training", open_world=True),
        ToolSpec(resume_run, "Resume training"),
        ToolSpec(get_run, "Look at a run", read_only=True, idempotent=True),
        ToolSpec(list_runs, "List runs", read_only=True, idempotent=True),
        ToolSpec(cancel_run, "Cancel a run", destructive=True, idempotent=True),
        ToolSpec(diagnose_run, "Diagnose a training run", read_only=True, idempotent=True),
    ]
