"""What stands in the way, each with its remedy: the problems of a machine report."""

from __future__ import annotations

from tunesmith.machine.gpus import held_memory, hidden_by
from tunesmith.machine.packages import EMBEDDED, TRAINING, wanted
from tunesmith.machine.recommend import disk_needed_gib
from tunesmith.machine.records import Gpu, LlamaCpp, LoadedModel, PackageFacts, Problem, Recommendation, TorchFacts
from tunesmith.own_llama_cpp import FOLDER_VARIABLE, is_left_alone, user_folder

MIN_RAM_GIB = 2.0  # what training the embedded model takes, with the libraries it loads
MIN_DISK_GIB = 1.0
TRIED = "Tried and not proven"
# What keeps from training comes first, what is merely not there comes last.
PRESSING = (
    "gpu_driver_failed",
    "gpu_unreadable",
    "gpu_hidden",
    "torch_without_cuda",
    "probe_failed",
    "package_version",
    "low_memory",
    "low_disk",
    "gpu_memory_held",
    "package_missing",
    "no_gpu",
    "llama_cpp_dir",
    "llama_cpp_missing",
)


def package_problems(packages: dict[str, PackageFacts], *, cuda: bool) -> list[Problem]:
    """Missing and unfit packages, those that one command brings in one problem."""
    problems: list[Problem] = []
    missing: dict[str, list[str]] = {}
    for name, facts in packages.items():
        if facts.ok or facts.fix is None:
            continue
        if facts.version is None:
            missing.setdefault(facts.fix, []).append(name)
        elif facts.problem and not facts.problem.startswith(TRIED):  # those are listed already
            problems.append(Problem(code="package_version", message=facts.problem, fix=facts.fix))
    for fix, names in missing.items():
        whys = {
            "training": [name for name in names if name in TRAINING],
            "the embedded model": [name for name in names if name in EMBEDDED],
        }
        purpose = " and ".join(what for what, which in whys.items() if which) or wanted(names[0]).why
        message = f"Not installed: {', '.join(names)} (for: {purpose})."
        problems.append(Problem(code="package_missing", message=message, fix=fix))
    return problems


def room_problems(recommended: Recommendation, ram: float, disk: float, where: str) -> list[Problem]:
    """Too little memory for any training, or too little disk for what is recommended; all in GiB."""
    problems: list[Problem] = []
    if ram < MIN_RAM_GIB:
        problems.append(
            Problem(
                code="low_memory",
                message=f"{ram:.1f} GiB of memory are free; training the embedded model takes about {MIN_RAM_GIB:.0f}.",
                fix="Close other programs.",
            )
        )
    needed = disk_needed_gib(recommended.base_model)
    if disk < max(needed, MIN_DISK_GIB):
        problems.append(
            Problem(
                code="low_disk",
                message=f"{disk:.1f} GiB are free at {where}; {recommended.base_model} takes about {needed:.0f} GiB "
                "from its weights to a GGUF.",
                fix="Free some space, or choose another place with --workspace.",
            )
        )
    return problems


def gpu_problems(gpus: list[Gpu], torch: TorchFacts, loaded: list[LoadedModel]) -> list[Problem]:
    """No card, a card that cannot be used, or one whose memory others hold."""
    if not gpus:
        return [
            Problem(
                code="no_gpu",
                message="No NVIDIA driver and no Apple GPU were found. Training works on the processor with the "
                "embedded model; a larger model needs a GPU.",
                fix="Nothing has to be done for the embedded model: start_training(base_model='embedded'). "
                "With an NVIDIA card in this machine, install its driver.",
            )
        ]
    problems: list[Problem] = []
    cuda = [gpu for gpu in gpus if gpu.compute_capability is not None]
    hidden = hidden_by()
    if cuda and hidden:
        problems.append(
            Problem(
                code="gpu_hidden",
                message=f"{hidden} hides every card from CUDA programs.",
                fix="Start tunesmith without that variable.",
            )
        )
    if cuda and torch.installed and torch.cuda is None:
        problems.append(
            Problem(
                code="torch_without_cuda",
                message=f"torch {torch.version} is a build without CUDA, so {cuda[0].name} is not used.",
                fix="pip install --force-reinstall torch, from the index that pytorch.org names for your CUDA version",
            )
        )
    return problems + _with_ollama(held_memory(gpus), loaded)


def _with_ollama(held: list[Problem], loaded: list[LoadedModel]) -> list[Problem]:
    """Name the models that Ollama on this machine keeps on the GPU, also where the driver does not show its process."""
    on_gpu = [model for model in loaded if model.gpu_gib >= 0.1]
    if not on_gpu:
        return held
    commands = " && ".join(f"ollama stop {model.name}" for model in on_gpu)
    fix = f"Run: {commands}. Ollama loads a model again when it is asked."
    shown = [problem for problem in held if problem.message.startswith("ollama")]
    for problem in shown:
        problem.fix = fix
    if shown:
        return held
    names = ", ".join(f"{model.name} ({model.gpu_gib:.1f} GiB)" for model in on_gpu)
    return [*held, Problem(code="gpu_memory_held", message=f"ollama keeps on the GPU: {names}.", fix=fix)]


def llama_cpp_problems(found: LlamaCpp) -> list[Problem]:
    """A folder of the user's that holds nothing, or parts that are nowhere."""
    problems: list[Problem] = []
    folder = user_folder()
    if folder is not None and not is_left_alone() and FOLDER_VARIABLE not in (found.source or ""):
        problems.append(
            Problem(
                code="llama_cpp_dir",
                message=f"{FOLDER_VARIABLE} is {str(folder)!r}, and no part of llama.cpp is there.",
                fix="Point it at a llama.cpp folder (convert_hf_to_gguf.py, build/bin/llama-quantize), or unset it.",
            )
        )
    if not found.complete:
        parts = {"converter": found.converter, "quantizer": found.quantizer, "runtime": found.runtime}
        absent = ", ".join(name for name, where in parts.items() if where is None)
        problems.append(
            Problem(
                code="llama_cpp_missing",
                message=f"llama.cpp lacks its {absent}, so a model cannot be exported and served in full.",
                fix=f"pip install 'tunesmith[embedded]', or set {FOLDER_VARIABLE} to a llama.cpp of your own",
            )
        )
    return problems


def rank(problem: Problem) -> int:
    """Ollama's problems, which PRESSING does not list, come last."""
    return PRESSING.index(problem.code) if problem.code in PRESSING else len(PRESSING)
