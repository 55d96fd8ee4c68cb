"""A training process beside the worker: `python -m tunesmith.training.follower RUN_DIR RANK COUNT ENGINE`.

It does what the worker, which leads, tells it, on its own card and its share of the rows. It writes nothing into the
run but its own log, and ends when the worker does.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.errors import NotSupported
from tunesmith.training.injection import Injection
from tunesmith.training.parallel import MEETING_PLACE
from tunesmith.training.process import cap_memory, keep_freed_memory, usable_cores
from tunesmith.training.recovery import ran_out_of_memory

if TYPE_CHECKING:
    from tunesmith.training.engines.group import Group, Order, Task


class Follower:
    """One process that follows.

    Args:
        load: the engine's, as in `Loop`.
    """

    def __init__(self, group: Group, load: Callable[..., Any]) -> None:
        self.group = group
        self.injection = Injection.from_environment()
        self.load = self.injection.load(load) if self.injection else load
        self.trainer: Any = None

    def follow(self) -> None:
        """Until the leader says that it is over."""
        from tunesmith.training.engines.group import Order, Ordered
        from tunesmith.training.engines.parts import free_memory

        heard: tuple[Order, Any] | None = None
        out_of_memory = False
        while True:
            order, thing = heard or self.group.hear(out_of_memory=out_of_memory)
            heard, out_of_memory = None, False
            if order == Order.END:
                return
            if order == Order.LOAD:
                self.trainer = None
                free_memory()
            try:
                self._obey(order, thing)
            except Ordered as other:
                heard = other.order, other.thing
            except Exception as error:
                if not ran_out_of_memory(error):
                    raise
                out_of_memory = True
            if out_of_memory:  # here, where nothing holds the frames of the failure any more
                self.trainer = None
                free_memory()

    def _obey(self, order: Order, thing: Any) -> None:
        from tunesmith.training.engines.group import Order

        if order == Order.LOAD:
            self._load(thing)
        elif order == Order.EVALUATE:
            self.trainer.take_part_in_evaluation(thing)
        elif order == Order.TRAIN:
            self.group.copy_weights(self.trainer.model)
            self.trainer.train(resume_from_checkpoint=thing)

    def _load(self, task: Task) -> None:
        import torch
        from transformers import TrainerCallback

        from tunesmith.training.engines.sft import build_trainer
        from tunesmith.training.engines.shared import SharedTrainer

        recipe, rank = task.recipe, self.group.rank

        class Quiet(TrainerCallback):
            """Leaves logging, looking and saving to the leader."""

            def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                # Dropout differs from the leader's, and a resumed run has that of one which was never interrupted.
                torch.manual_seed(random.Random(f"{recipe.seed}:{rank}:{state.global_step}").getrandbits(63))

            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                control.should_log = control.should_evaluate = control.should_save = False

        torch.set_num_threads(max(1, usable_cores() // recipe.processes))
        cap_memory(recipe.memory_budget_gib)
        loaded = self.load(task.base, recipe, task.dtype or None, task.joins)
        if task.dtype and loaded.dtype != task.dtype:
            raise NotSupported(
                f"The training processes compute in {task.dtype} and {loaded.dtype}: their cards differ.",
                next="Use processes=1, or cards alike.",
            )
        self.trainer = build_trainer(
            loaded,
            recipe,
            kind=SharedTrainer,
            train=task.train,
            held_out=task.held_out,
            steps=task.steps,
            root=task.root,
            callback=Quiet(),
            passes=task.passes,
            on_less=lambda _step, _change, _failure: None,
            group=self.group,
        )
        if self.injection is not None:
            self.injection.arm(self.trainer)


def main() -> None:
    run_dir, rank, count, engine = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the worker stops in an orderly way, and this process with it
    _end_with_the_worker(os.getppid())
    keep_freed_memory()
    load = _engine(engine, run_dir)
    from tunesmith.training.engines.group import Group

    group = Group(run_dir / MEETING_PLACE, rank, count)
    Follower(group, load).follow()
    group.end()


def _engine(engine: str, run_dir: Path) -> Callable[..., Any]:
    if engine == "unsloth":
        from tunesmith.training.engines import unsloth_engine

        if unsloth_engine.import_problem(run_dir) is None:
            return unsloth_engine.load
    from tunesmith.training.engines import transformers_engine

    return transformers_engine.load


def _end_with_the_worker(worker: int) -> None:
    """End this process when the worker is gone, however it went: nobody else would."""

    def watch() -> None:
        while os.getppid() == worker:
            time.sleep(0.5)
        os._exit(1)

    if sys.platform != "win32":  # there a parent's pid stays what it was; the broken connection ends this process
        threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    main()
