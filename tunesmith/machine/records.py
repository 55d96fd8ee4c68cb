"""What this machine is, as it is shown: the report of check_gpu, and what Ollama lists."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tunesmith.records import Record


class TorchFacts(Record):
    """PyTorch as it is installed, read from its metadata without importing it."""

    installed: bool
    version: str | None = Field(description="For example 2.13.0; null when not installed.")
    cuda: str | None = Field(description="CUDA version it was built for; null for a build without CUDA.")


class GpuProcess(Record):
    """A process that holds memory on a GPU."""

    pid: int
    name: str = Field(description="Program name; 'unknown' where the driver shows a process of another user.")
    gib: float | None = Field(description="GPU memory it holds, in GiB; null where the driver does not tell.")


class Gpu(Record):
    """One NVIDIA card as its driver sees it, or Apple's GPU."""

    index: int = Field(description="The number CUDA gives it when no variable reorders the cards.")
    uuid: str | None = Field(default=None, description="The driver's name for it, which no variable changes.")
    name: str
    compute_capability: str | None = Field(description="For example 8.9; null for Apple.")
    total_gib: float = Field(description="Memory in GiB; for Apple that of the whole machine, which the GPU shares.")
    free_gib: float = Field(description="Memory in GiB that nobody holds now.")
    bf16: bool = Field(description="Computes in bfloat16 by itself: compute capability 8.0 and later.")
    processes: list[GpuProcess] = Field(description="Largest first.")


class PackageFacts(Record):
    """One Python package that the pipeline can use."""

    version: str | None = Field(description="Null when not installed.")
    ok: bool = Field(description="Installed in a version that works here; with probe, also imported and used.")
    problem: str | None = Field(
        description="What is wrong; null when ok, and when a package is merely not needed here."
    )
    fix: str | None = Field(description="The command or step that mends it.")


class LoadedModel(Record):
    """A model that Ollama keeps in memory."""

    name: str
    total_gib: float = Field(description="Memory it takes, in GiB.")
    gpu_gib: float = Field(description="The part of it on the GPU, in GiB.")
    expires_at: str | None = Field(description="When Ollama lets go of it by itself, ISO 8601.")


class OllamaFacts(Record):
    """Ollama, as it answers now."""

    reachable: bool
    version: str | None = Field(description="Null when it does not answer.")
    loaded: list[LoadedModel] = Field(description="Models in memory.")


class LlamaCpp(Record):
    """The parts of llama.cpp that will be used, the user's own first."""

    converter: str | None = Field(description="Path of convert_hf_to_gguf.py.")
    lora_converter: str | None = Field(description="Path of convert_lora_to_gguf.py.")
    quantizer: str | None = Field(description="Path of llama-quantize, or package:cyllama.")
    runtime: str | None = Field(description="Path of llama-server, or package:xllamacpp.")
    source: str | None = Field(
        description="Where they come from: LLAMA_CPP_DIR, PATH, packages; joined by + when mixed, null when none."
    )

    @property
    def complete(self) -> bool:
        """Whether a model can be converted, quantised and served."""
        return None not in (self.converter, self.quantizer, self.runtime)


class Recommendation(Record):
    """What to train with on this machine."""

    engine: Literal["transformers", "unsloth"]
    base_model: str = Field(description="A Hub id, or 'embedded'.")
    method: Literal["qlora", "lora", "full"]
    reason: str = Field(description="Why, with the figures it rests on.")


class Problem(Record):
    """Something in the way, and what to do about it."""

    code: str
    message: str
    fix: str


class MachineReport(Record):
    """What this machine can do: the result of check_gpu."""

    python: str = Field(description="Version of the Python that runs tunesmith.")
    platform: str = Field(description="System, machine and processor cores.")
    torch: TorchFacts
    gpus: list[Gpu] = Field(description="Empty on a machine without a GPU.")
    packages: dict[str, PackageFacts] = Field(description="By the name pip knows.")
    ollama: OllamaFacts
    llama_cpp: LlamaCpp
    ram_free_gib: float = Field(description="Memory in GiB that can be used without swapping.")
    disk_free_gib: float = Field(description="Free space in GiB where the workspace lies.")
    can_train: bool = Field(description="Whether a training run could start here now.")
    recommended: Recommendation
    problems: list[Problem] = Field(description="Most pressing first; empty when nothing is in the way.")


class InstalledModel(Record):
    """A model that Ollama has on its disk."""

    name: str
    gib: float = Field(description="Size on disk in GiB.")
    digest: str
    family: str | None
    parameters: str | None = Field(description="Number of parameters as Ollama writes it, for example 7.6B.")
    quantization: str | None = Field(description="For example Q4_K_M.")
    modified_at: str | None = Field(description="ISO 8601.")


class ChatReply(Record):
    """One answer of a model in Ollama."""

    content: str
    done_reason: str = Field(description="stop: it ended by itself; length: it was cut.")
    prompt_tokens: int = Field(description="Tokens of the prompt that were computed.")
    tokens: int = Field(description="Tokens of the answer.")
    seconds: float = Field(description="From request to end, loading included.")
    thinking: str = Field(default="", description="What Ollama takes for thinking and keeps apart from the answer.")
