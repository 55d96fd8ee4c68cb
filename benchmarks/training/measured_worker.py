"""tunesmith's training worker, with a look at the card's memory from within: `measured_worker.py RUN_DIR...`.

Leaves `memory.json` beside each run's result: GiB as torch's allocator and as the driver see them, before and after
loading and at the end. Several runs share one import; between two of them everything is freed and the peaks are reset,
and when more than LEFT_GIB stays behind the process ends, for the next peak would hold it too. With
PROFILE_STEPS="12-16" in the environment, `profile.txt` says where the time of those steps went; with WORTH_COMPILING=1
a run of so few passes has its blocks compiled, as a long one would.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

from tunesmith.training import kernels, worker
from tunesmith.work import Work, _perform, run_worker

GIB = 2**30
LEFT_GIB = 0.15
TOO_MUCH_LEFT = 76


def memory() -> dict[str, float]:
    import torch

    if not torch.cuda.is_available():
        return {}
    free, total = torch.cuda.mem_get_info()
    found = {
        "reserved": torch.cuda.memory_reserved() / GIB,
        "allocated": torch.cuda.memory_allocated() / GIB,
        "peak_reserved": torch.cuda.max_memory_reserved() / GIB,
        "peak_allocated": torch.cuda.max_memory_allocated() / GIB,
        "card_used": (total - free) / GIB,  # context and libraries included; of everybody on the card
        "card_total": total / GIB,
    }
    if (own := _own_memory()) is not None:
        found["process"] = own / GIB
    return {name: round(value, 3) for name, value in found.items()}


def _own_memory() -> int | None:
    """Bytes of the card that the driver counts as this process's; None where it does not show processes."""
    import pynvml

    pynvml.nvmlInit()
    try:
        card = pynvml.nvmlDeviceGetHandleByIndex(0)
        found = [p.usedGpuMemory for p in pynvml.nvmlDeviceGetComputeRunningProcesses(card) if p.pid == os.getpid()]
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()
    return found[0] if found else None


class Training(worker.Training):
    """The worker's own, observed."""

    looks: dict[str, Any]

    def _choose_engine(self) -> None:
        super()._choose_engine()
        self.looks = {"before_load": memory() if "torch" in sys.modules else {}}
        load = self.load

        def observed(*args: Any, **kwargs: Any) -> Any:
            loaded = load(*args, **kwargs)
            self.looks["after_load"] = memory()
            self.looks["trained_parameters"] = sum(p.numel() for p in loaded.model.parameters() if p.requires_grad)
            self.looks["trained_dtypes"] = sorted({str(p.dtype) for p in loaded.model.parameters() if p.requires_grad})
            self.looks["attention"] = str(getattr(loaded.model.config, "_attn_implementation", None))
            if os.environ.get("PROFILE_STEPS"):
                self._profile()
            return loaded

        self.load = observed

    def _profile(self) -> None:
        from tunesmith.training.engines import sft

        build, first_last = sft.build_trainer, os.environ["PROFILE_STEPS"].split("-")

        def build_profiled(*args: Any, **kwargs: Any) -> Any:
            trainer = build(*args, **kwargs)
            trainer.add_callback(_profiler(self.work.run_dir, int(first_last[0]), int(first_last[1])))
            sft.build_trainer = build
            return trainer

        sft.build_trainer = build_profiled

    def _finish(self) -> Any:
        (self.work.run_dir / "memory.json").write_text(json.dumps({**self.looks, "end": memory()}))
        return super()._finish()


def _profiler(run_dir: Any, first: int, last: int) -> Any:
    import time

    import torch
    from torch.profiler import ProfilerActivity, profile
    from transformers import TrainerCallback

    class Profiler(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == first:
                activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])
                self.profile = profile(activities=activities)
                self.profile.start()
                self.began = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step != last:
                return
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds = time.perf_counter() - self.began
            self.profile.stop()
            averages = self.profile.key_averages()
            by = "self_device_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
            busy = sum(getattr(entry, "self_device_time_total", 0) for entry in averages) / 1e6
            launches = sum(e.count for e in averages if "aunchKernel" in e.key)
            syncs = {e.key: e.count for e in averages if "ynchronize" in e.key or "cudaMemcpy" in e.key}
            text = (
                f"steps {first + 1} to {last}: {seconds:.3f} s (profiled), device busy {busy:.3f} s, "
                f"{launches} launches, {syncs}\n"
            )
            table = averages.table(sort_by=by, row_limit=45, max_name_column_width=70)
            (run_dir / "profile.txt").write_text(text + table)

    return Profiler()


def one_after_the_other(folders: list[Path]) -> int:
    for number, folder in enumerate(folders):
        if number:
            log = os.open(folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
        try:
            _perform(Work(folder), worker.train)
        except Exception:  # noqa: BLE001 - the next run is another one
            traceback.print_exc()
        left = free()
        (folder / "done").touch()
        if left > LEFT_GIB and folder is not folders[-1]:
            print(f"{left:.2f} GiB stay behind.", flush=True)
            return TOO_MUCH_LEFT
    return 0


def free() -> float:
    """As near to a new process as it gets; GiB that stay reserved."""
    import torch

    gc.collect()
    torch._dynamo.reset()  # what was compiled for one model's shapes is no measure of the next
    if not torch.cuda.is_available():
        return 0.0
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    torch.cuda.set_per_process_memory_fraction(1.0)
    return torch.cuda.memory_reserved() / GIB


if __name__ == "__main__":
    worker.Training = Training
    kernels.WORTH_COMPILING = int(os.environ.get("WORTH_COMPILING", kernels.WORTH_COMPILING))
    if len(sys.argv) == 2:
        run_worker({"train": worker.train})
    sys.exit(one_after_the_other([Path(folder) for folder in sys.argv[1:]]))
