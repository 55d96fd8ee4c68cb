"""One look at this machine: what is installed, what is free, what runs, and what stands in the way."""

from __future__ import annotations

import os
import platform
import shutil
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from tunesmith.errors import InvalidArgument, UserError
from tunesmith.machine.gpus import apple_gpu, hidden_by, look_at_gpus
from tunesmith.machine.hosts import is_loopback, ollama_url
from tunesmith.machine.llama_cpp import find_llama_cpp
from tunesmith.machine.packages import TRAINING, look_at_packages, look_at_torch
from tunesmith.machine.problems import (
    MIN_DISK_GIB,
    MIN_RAM_GIB,
    TRIED,
    gpu_problems,
    llama_cpp_problems,
    package_problems,
    rank,
    room_problems,
)
from tunesmith.machine.recommend import recommend
from tunesmith.machine.records import (
    MachineReport,
    OllamaFacts,
    PackageFacts,
    Problem,
)
from tunesmith.workspace import Workspace

if TYPE_CHECKING:
    from tunesmith.machine.probe import ProbeResult

GIB = 2**30
OLLAMA_DEADLINE_S = 3.0
PROBED = ("torch", "bitsandbytes", "triton", "unsloth")


def check_machine(workspace: Workspace, *, probe: bool = False, ollama_host: str | None = None) -> MachineReport:
    """Look at the machine. Takes well under a second; with `probe`, up to 40 s.

    Args:
        workspace: its disk is the one whose free space counts.
        probe: also import and use torch, bitsandbytes, Triton and Unsloth, each in a child process.
        ollama_host: where Ollama is; default: OLLAMA_HOST, else port 11434 of this machine.

    Raises:
        InvalidArgument: `ollama_host` is not an address that may be called.
    """
    asking = _AskOllama(ollama_host)  # meanwhile the rest is looked at
    torch = look_at_torch()
    gpus, problems = look_at_gpus()
    cuda = bool(gpus)
    apple = None if gpus else apple_gpu(torch_installed=torch.installed)
    gpus = [apple] if apple else gpus
    packages = look_at_packages(cuda=cuda)
    if probe:
        _probe(packages, problems, cuda=cuda)
    llama_cpp = find_llama_cpp()
    ollama, ollama_problems = asking.answer()
    ram_free, disk_free = free_memory_gib(), round(shutil.disk_usage(workspace.root).free / GIB, 2)
    recommended = recommend(gpus, torch, packages, hidden=hidden_by())
    problems += [
        *package_problems(packages, cuda=cuda),
        *room_problems(recommended, ram_free, disk_free, str(workspace.root)),
        *gpu_problems(gpus, torch, ollama.loaded if asking.on_this_machine else []),
        *llama_cpp_problems(llama_cpp),
        *ollama_problems,
    ]
    return MachineReport(
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.release()} {platform.machine()}, {_cores()} cores",
        torch=torch,
        gpus=gpus,
        packages=packages,
        ollama=ollama,
        llama_cpp=llama_cpp,
        ram_free_gib=ram_free,
        disk_free_gib=disk_free,
        can_train=_can_train(packages, ram_free, disk_free),
        recommended=recommended,
        problems=sorted(problems, key=rank),
    )


def free_memory_gib() -> float:
    """Memory, in GiB, that can be used without swapping; a container's own limit counts."""
    free = psutil.virtual_memory().available
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
        # File cache counts as used there, and is given back when somebody needs it.
        cached = next(
            int(line.split()[1])
            for line in (group / "memory.stat").read_text().splitlines()
            if line.startswith("inactive_file ")
        )
    except (OSError, ValueError, StopIteration):
        return round(free / GIB, 2)
    if limit.isdigit():
        free = min(free, max(int(limit) - used + cached, 0))
    return round(free / GIB, 2)


class _AskOllama:
    """Ollama's facts, asked for in the background: a name server can be slow, this check may not be."""

    def __init__(self, host: str | None) -> None:
        self._found: tuple[OllamaFacts, list[Problem]] | None = None
        self.on_this_machine = False
        try:
            self._url = ollama_url(host)
            self.on_this_machine = is_loopback(self._url)
        except InvalidArgument as error:
            if host is not None:
                raise
            self._url = os.environ.get("OLLAMA_HOST", "")
            self._found = _no_ollama("ollama_host_invalid", error.message, error.next)
            return
        self._thread = threading.Thread(target=self._ask, daemon=True, name="ask-ollama")
        self._thread.start()

    def answer(self) -> tuple[OllamaFacts, list[Problem]]:
        if self._found is None:
            self._thread.join(OLLAMA_DEADLINE_S)
        return self._found or _no_ollama(
            "ollama_unreachable",
            f"Ollama at {self._url} did not answer within {OLLAMA_DEADLINE_S:.0f} s.",
            "Check the address in OLLAMA_HOST, and whether the server is busy.",
        )

    def _ask(self) -> None:
        from tunesmith.machine.ollama import CREATE_SINCE, RENDER_SINCE, OllamaClient

        # On this machine a port answers at once or not at all.
        wait_s = 0.25 if self.on_this_machine else 1.5
        try:
            with OllamaClient(self._url, connect_timeout_s=wait_s, timeout_s=1.5) as client:
                facts = OllamaFacts(reachable=True, version=client.version(), loaded=client.loaded())
                problems: list[Problem] = []
                for since, purpose in ((CREATE_SINCE, "register a model"), (RENDER_SINCE, "compare its prompts")):
                    try:
                        client.require_version(since, purpose)
                    except UserError as error:
                        problems.append(Problem(code="ollama_old", message=error.message, fix=error.next))
        except UserError as error:
            self._found = _no_ollama(f"ollama_{error.error_code}", error.message, error.next)
        else:
            self._found = facts, problems


def _no_ollama(code: str, message: str, fix: str) -> tuple[OllamaFacts, list[Problem]]:
    return OllamaFacts(reachable=False, version=None, loaded=[]), [Problem(code=code, message=message, fix=fix)]


def _probe(packages: dict[str, PackageFacts], problems: list[Problem], *, cuda: bool) -> None:
    """Replace what the metadata say by what happened."""
    from tunesmith.machine.probe import probe_packages

    names = [name for name in PROBED if packages[name].version is not None]
    for name, result in probe_packages(names).items():
        if not result.ok:
            facts = packages[name] = _after_probe(name, packages[name], result, cuda=cuda)
            if facts.fix:
                message = f"{name} {facts.version} is installed and was not proven to work: {result.detail}."
                problems.append(Problem(code="probe_failed", message=message, fix=facts.fix))


def _after_probe(name: str, facts: PackageFacts, result: ProbeResult, *, cuda: bool) -> PackageFacts:
    if result.timed_out:
        # The first import after an installation or a restart reads gigabytes; the next one is quick.
        fix = "Call check_gpu(probe=true) again: what was read now is in the system's cache"
    elif cuda or name == "torch":
        fix = f"pip install --force-reinstall {name}"
    else:
        fix = None  # without a card nothing needs it
    return PackageFacts(version=facts.version, ok=False, problem=f"{TRIED}: {result.detail}.", fix=fix)


def _can_train(packages: dict[str, PackageFacts], ram: float, disk: float) -> bool:
    return all(packages[name].ok for name in TRAINING) and ram >= MIN_RAM_GIB and disk >= MIN_DISK_GIB


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
