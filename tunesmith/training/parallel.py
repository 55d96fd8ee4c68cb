"""The training processes beside the worker: starting them, noticing the end of one, ending all. No torch.

They are in the worker's process group, hold its run's lock and end with it, so the run's shim needs to know of one
process only.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith.errors import NotSupported, UserError
from tunesmith.files import write_atomic
from tunesmith.runs import process
from tunesmith.training.injection import VARIABLE
from tunesmith.training.recipe import Recipe
from tunesmith.work import EXIT_FAILED, Work

if TYPE_CHECKING:
    from tunesmith.training.engines.group import Group

MEETING_PLACE = "processes.meet"
CARDS = "CUDA_VISIBLE_DEVICES"
NOTICE_S = 5.0  # in which the death of a process is seen after what it broke was
HANG_S = 20.0  # after which a worker that waits for a dead process is ended
LEAVE_S = 30.0


class Others:
    """The processes beside this one, while the training lasts.

    Attributes:
        cards: those of all processes, this one's first, as CUDA_VISIBLE_DEVICES names them.
    """

    def __init__(self, work: Work, recipe: Recipe) -> None:
        self.work = work
        self.count = recipe.processes
        self.cards = _cards(recipe.processes)
        self.leaving = False
        place = work.run_dir / MEETING_PLACE
        place.unlink(missing_ok=True)
        lock = process.inherited_lock(process.ALIVE_VARIABLE)
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        for rank in range(1, self.count):
            command = [sys.executable, "-P", "-m", "tunesmith.training.follower", str(work.run_dir)]
            with self.log_of(rank).open("wb") as log:
                self._children[rank] = subprocess.Popen(
                    [*command, str(rank), str(self.count), recipe.engine],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=[lock] if lock is not None else [],
                    env=self._environment(rank),
                )
        os.environ[CARDS] = self.cards[0]  # before CUDA is used: each process sees one card, and calls it 0
        threading.Thread(target=self._watch, daemon=True).start()

    def join(self) -> Group:
        """Meet them. Imports torch."""
        from tunesmith.training.engines.group import Group

        return Group(self.work.run_dir / MEETING_PLACE, 0, self.count)

    def log_of(self, rank: int) -> Path:
        return self.work.run_dir / f"process-{rank + 1}.log"

    def lost(self, wait_s: float = 0.0) -> UserError | None:
        """What to say of a process that has ended; None while all live."""
        deadline = time.monotonic() + wait_s
        while True:
            for rank, child in self._children.items():
                code = child.poll()
                if code:  # 0: it was told that the training is over
                    return self._loss(rank, code)
            if time.monotonic() >= deadline:
                return None
            time.sleep(0.05)

    def close(self) -> None:
        """End them, if they have not gone by themselves; what they said is in the run's log only if one failed."""
        for child in self._children.values():
            if self.leaving:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(LEAVE_S)
            child.kill()
            child.wait()
        self.leaving = True
        (self.work.run_dir / MEETING_PLACE).unlink(missing_ok=True)
        for rank in self._children:
            self.log_of(rank).unlink(missing_ok=True)

    def _environment(self, rank: int) -> dict[str, str]:
        own = {
            CARDS: self.cards[rank],
            "UNSLOTH_COMPILE_LOCATION": str(self.work.run_dir / f"unsloth_compiled_cache_{rank + 1}"),
            VARIABLE: os.environ.get(f"{VARIABLE}_{rank + 1}", ""),
        }
        return {**os.environ, **own}

    def _loss(self, rank: int, code: int) -> UserError:
        said = self.log_of(rank).read_text(encoding="utf-8", errors="replace")[-4000:].strip()
        if said:
            print(f"Training process {rank + 1} of {self.count} said:\n{said}", flush=True)
        if code == -signal.SIGKILL:
            why = "was killed, most often for lack of memory"
        else:
            last = said.splitlines()[-1] if said else "it said nothing"
            why = f"ended with exit code {code}: {last[:300]}"
        return UserError(
            f"Training process {rank + 1} of {self.count} {why}. The others were ended.",
            next="Read the run's log; resume_run goes on from its newest checkpoint.",
            code="process_lost",
        )

    def _watch(self) -> None:
        """A card waits for ever for one that is gone, and no exception comes out of that."""
        while not self.leaving:
            if (lost := self.lost()) is not None:
                time.sleep(HANG_S)
                if self.leaving:
                    return
                write_atomic(self.work.run_dir / "result.json", json.dumps({"error": lost.as_record()}))
                for child in self._children.values():
                    child.kill()
                os._exit(EXIT_FAILED)
            time.sleep(0.5)


@contextlib.contextmanager
def others_beside(work: Work, recipe: Recipe) -> Iterator[Others]:
    """The processes beside this one; none is left afterwards.

    Raises:
        UserError: code process_lost: one ended before its time.
    """
    others = Others(work, recipe)
    try:
        yield others
    except Exception as error:
        if not others.leaving and not isinstance(error, UserError) and (lost := others.lost(NOTICE_S)) is not None:
            raise lost from error
        raise
    finally:
        others.close()


def _cards(count: int) -> list[str]:
    named = os.environ.get(CARDS)
    if named is None:
        return [str(index) for index in range(count)]
    names = [name.strip() for name in named.split(",") if name.strip()]
    if not names:  # no card is to be used
        return [""] * count
    if len(names) < count:
        raise NotSupported(
            f"processes={count}, and {CARDS} leaves {len(names)} card(s).", next=f"Use processes={len(names)}."
        )
    return names[:count]
