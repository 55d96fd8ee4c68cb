"""The GPUs of this machine, as their driver describes them. No CUDA context is made, torch is not imported."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from typing import Any, Literal

import psutil

from tunesmith.machine.records import Gpu, GpuProcess, Problem

GIB = 2**30
HELD_FROM_GIB = 0.5  # less than this in another process's hands is a desktop, not an obstacle

Owner = Literal["ollama", "tunesmith", "other"]


def load_nvml() -> Any:
    """NVIDIA's management library, as a module. Replaced in tests."""
    import pynvml

    return pynvml


def look_at_gpus() -> tuple[list[Gpu], list[Problem]]:
    """All NVIDIA cards, and what kept one from being read. ([], []) without a driver."""
    nvml = load_nvml()
    try:
        nvml.nvmlInit()
    except (nvml.NVMLError_LibraryNotFound, nvml.NVMLError_DriverNotLoaded):
        return [], []
    except nvml.NVMLError as error:
        return [], [
            Problem(
                code="gpu_driver_failed",
                message=f"An NVIDIA driver is installed and does not work: {error}.",
                fix="Run nvidia-smi; after a driver update, restart the machine.",
            )
        ]
    gpus: list[Gpu] = []
    problems: list[Problem] = []
    try:
        for index in range(nvml.nvmlDeviceGetCount()):
            try:
                gpus.append(_gpu(nvml, index))
            except nvml.NVMLError as error:
                problems.append(
                    Problem(
                        code="gpu_unreadable",
                        message=f"GPU {index} cannot be read: {error}.",
                        fix="Run nvidia-smi to see its state.",
                    )
                )
    finally:
        nvml.nvmlShutdown()
    return gpus, problems


def apple_gpu(*, torch_installed: bool) -> Gpu | None:
    """Apple's GPU, by platform alone; it shares the machine's memory."""
    if platform.system() != "Darwin" or platform.machine() != "arm64" or not torch_installed:
        return None
    memory = psutil.virtual_memory()
    system = platform.mac_ver()[0].split(".")[0]
    return Gpu(
        index=0,
        name="Apple GPU (MPS)",
        compute_capability=None,
        total_gib=round(memory.total / GIB, 2),
        free_gib=round(memory.available / GIB, 2),
        bf16=system.isdigit() and int(system) >= 14,
        processes=[],
    )


def hidden_by() -> str | None:
    """The setting that hides every card from CUDA programs, or None."""
    value = os.environ.get("CUDA_VISIBLE_DEVICES")
    return f"CUDA_VISIBLE_DEVICES={value!r}" if value is not None and value.strip() in ("", "-1") else None


def held_memory(gpus: list[Gpu]) -> list[Problem]:
    """One problem for each process that holds memory on a card, with the way to free it."""
    problems: list[Problem] = []
    for gpu in gpus:
        named = 0.0
        for process in gpu.processes:
            named += process.gib or 0.0
            if process.gib is not None and process.gib >= HELD_FROM_GIB:
                problems.append(
                    Problem(
                        code="gpu_memory_held",
                        message=f"{process.name} (pid {process.pid}) holds {process.gib:.1f} of the "
                        f"{gpu.total_gib:.1f} GiB of GPU {gpu.index} ({gpu.name}).",
                        fix=_how_to_free(process),
                    )
                )
        unnamed = gpu.total_gib - gpu.free_gib - named
        # Apple's memory is the whole machine's; a driver keeps some for itself.
        if gpu.compute_capability is not None and unnamed >= max(1.5, 0.05 * gpu.total_gib):
            problems.append(
                Problem(
                    code="gpu_memory_held",
                    message=f"{unnamed:.1f} of the {gpu.total_gib:.1f} GiB of GPU {gpu.index} ({gpu.name}) are held "
                    "by processes that the driver does not show here (another user or container).",
                    fix="Run nvidia-smi outside this container, or as administrator, and close what is not needed.",
                )
            )
    return problems


def owner_of(pid: int) -> tuple[str, Owner]:
    """(name, owner) of a process; a model runner that Ollama started counts as Ollama."""
    try:
        process = psutil.Process(pid)
        name = process.name()
        command = " ".join(process.cmdline())
        parents = [parent.name() for parent in process.parents()[:3]]
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return "unknown", "other"
    if "ollama" in name.lower() or any(parent.lower().startswith("ollama") for parent in parents):
        return (name if "ollama" in name.lower() else f"ollama ({name})"), "ollama"
    if "tunesmith." in command:
        return f"tunesmith ({name})", "tunesmith"
    return name, "other"


def _gpu(nvml: Any, index: int) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    name = nvml.nvmlDeviceGetName(handle)
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    try:
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        total, free = memory.total, memory.free
    except nvml.NVMLError_NotSupported:
        # Boards that share the processor's memory report none of their own.
        shared = psutil.virtual_memory()
        total, free = shared.total, shared.available
    return Gpu(
        index=index,
        uuid=_text(nvml.nvmlDeviceGetUUID(handle)),
        name=_text(name),
        compute_capability=f"{major}.{minor}",
        total_gib=round(total / GIB, 2),
        free_gib=round(free / GIB, 2),
        bf16=major >= 8,
        processes=_processes(nvml, handle),
    )


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _processes(nvml: Any, handle: Any) -> list[GpuProcess]:
    held: dict[int, int | None] = {}
    for ask in (nvml.nvmlDeviceGetComputeRunningProcesses, nvml.nvmlDeviceGetGraphicsRunningProcesses):
        # Not every driver shows processes; the memory figures stand without them.
        with suppress(nvml.NVMLError):
            for process in ask(handle):
                # Under Windows' display driver the amount is not told.
                held[process.pid] = max(process.usedGpuMemory or 0, held.get(process.pid) or 0) or None
    ordered = sorted(held.items(), key=lambda item: item[1] or 0, reverse=True)
    return [
        GpuProcess(pid=pid, name=owner_of(pid)[0], gib=None if used is None else round(used / GIB, 2))
        for pid, used in ordered
    ]


def _how_to_free(process: GpuProcess) -> str:
    if process.name.startswith("ollama"):
        return "Run `ollama ps` and `ollama stop MODEL` for what it lists; Ollama loads it again when it is asked."
    if process.name.startswith("tunesmith"):
        return "That is a run: wait for it, or call list_runs(state='running') and cancel_run with its run_id."
    return f"Close {process.name} (pid {process.pid}) if it is not needed."
