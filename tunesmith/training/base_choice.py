"""Which known bases fit which memory, by the memory model; and the base for "auto"."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from tunesmith.models.bases import weights_are_here
from tunesmith.models.catalogue import BASES, RESEARCH_ONLY, KnownBase, find
from tunesmith.training import memory
from tunesmith.training.hardware import Hardware
from tunesmith.training.recipe import Method
from tunesmith.workspace import Workspace

Room = Literal["yes", "tight", "no"]

CHINESE = "zh"
MOSTLY = 0.3  # share of rows from which data counts as written in a language
USUAL_RANK, USUAL_LENGTH = 16, 2048  # the run that a base is measured by: one sequence of so many tokens at a time
CPU_LENGTH = 512
# For "auto" on a card, best first: taught to answer, good at Chinese and English, and free to use by anybody.
LADDER = (
    "Qwen/Qwen2.5-7B-Instruct",
    "Qwen/Qwen3-4B-Instruct-2507",
    "Qwen/Qwen2.5-1.5B-Instruct",
    "Qwen/Qwen2.5-0.5B-Instruct",
)
SMALLEST_CHINESE = LADDER[-1]
WORTH = 0.35  # a base that is here is taken when it has at least this share of the weights of the best that fits


@dataclass(frozen=True)
class Way:
    """A base, a method and what a usual run of them needs: rank 16 on all linear layers, recomputation on.

    `fits` is "tight" where the estimate is within the budget and the upper end of its interval is not.
    """

    method: Method
    needs_gib: float
    fits: Room


@dataclass(frozen=True)
class Entry:
    """A base of the catalogue on some hardware. `here`: its weights are on this machine."""

    base: KnownBase
    ways: list[Way]
    here: bool


def table(workspace: Workspace, hardware: Hardware) -> list[Entry]:
    """The whole catalogue: what each base needs there, by method."""
    return [Entry(base, ways(base, hardware), weights_are_here(workspace, base.model_id)) for base in BASES]


def ways(base: KnownBase, hardware: Hardware, method: Method | None = None) -> list[Way]:
    """The methods that this hardware can train a base with, least memory first: adapters, or the one asked for.

    None for a base that also sees pictures: such models cannot be trained here yet.
    """
    if base.sees:
        return []
    methods: list[Method] = ["lora", "full"]
    if hardware.cuda and hardware.bitsandbytes:
        methods.insert(0, "qlora")
    if method is not None:
        methods = [method]
    return [
        Way(method, needed, room(needed, hardware)) for method in methods for needed in [needs(base, method, hardware)]
    ]


def needs(base: KnownBase, method: Method, hardware: Hardware) -> float:
    """Peak memory of a usual run, GiB."""
    shape = memory.Shape.from_config(base.config())
    length = USUAL_LENGTH if hardware.cuda else CPU_LENGTH
    full = method == "full"
    load = memory.Load(
        device=hardware.device,
        method=method,
        engine="unsloth" if hardware.unsloth and not full else "transformers",
        rank=0 if full else USUAL_RANK,
        targets=() if full else tuple(shape.modules),
        dropout=0.0,
        batch_size=1,
        length=min(length, base.context),
        recompute=True,
        optimizer="adamw_8bit" if hardware.bitsandbytes else "adamw_torch",
        masked=hardware.cuda,
        packed=hardware.cuda,
        weight_bytes=2 if hardware.cuda else 4,
    )
    return round(memory.total(memory.predict(shape, load)), 2)


def room(needed_gib: float, hardware: Hardware) -> Room:
    """Whether so much fits. A budget that is not known fits everything."""
    budget = hardware.budget_gib
    if budget is None:
        return "yes"
    if needed_gib > budget:
        return "no"
    _, high = memory.UNCALIBRATED if hardware.cuda else memory.UNCALIBRATED_CPU
    return "yes" if needed_gib * high <= budget else "tight"


def smaller_bases(
    base: KnownBase | None,
    parameters_b: float,
    hardware: Hardware,
    languages: Mapping[str, int],
    method: Method | None = None,
) -> list[KnownBase]:
    """Bases to offer when one does not fit well: the next smaller of its series, and the one "auto" would take."""
    smaller = [other for other in BASES if other.parameters_b < parameters_b and _fits_well(other, hardware, method)]
    series = [other for other in smaller if base is not None and other.family == base.family]
    found = [max(series, key=lambda other: other.parameters_b)] if series else []
    auto = find(choose_base(languages, hardware, lambda _: False, method)[0])
    if auto in smaller and auto not in found:
        found.append(auto)
    return found


def choose_base(
    languages: Mapping[str, int], hardware: Hardware, here: Callable[[str], bool], method: Method | None = None
) -> tuple[str, str]:
    """The base for "auto", with the reason.

    Args:
        languages: rows by language code, as a dataset has them.
        here: whether the weights of a base are on this machine.
        method: the one that was asked for; every weight takes several times the memory of an adapter.
    """
    chinese = _share(languages, CHINESE)
    if not hardware.cuda:
        return _without_card(chinese, hardware, here)
    fitting = [base for base in map(find, LADDER) if base and _fits_well(base, hardware, method)]
    if not fitting:
        embedded = find("embedded")
        small = embedded is not None and any(way.fits != "no" for way in ways(embedded, hardware, method))
        reason = f"{_memory(hardware)} hold only the embedded 135M model." if small else "The smallest there is."
        return "embedded", reason + (english_only_warning(chinese) if chinese >= MOSTLY else "")
    best = fitting[0]
    local = next((base for base in fitting if here(base.model_id)), None)
    if local and local is not best and local.parameters_b >= WORTH * best.parameters_b:
        reason = (
            f"Its weights are on this machine already. {best.model_id} would fit too ({best.download_gb:g} GB to "
            "fetch): name it to train it."
        )
        return local.model_id, reason + _languages(languages, local)
    reason = f"The largest that trains with room to spare in {_memory(hardware)}, of those that anybody may use."
    return best.model_id, reason + _languages(languages, best)


def english_only_warning(chinese: float) -> str:
    """What to say when data that is partly Chinese meets the embedded model."""
    return (
        f" Warning: {chinese:.0%} of the rows are Chinese, and the embedded SmolLM2 knows English only: expect the "
        f"pipeline to work and the answers to be poor. For real results use a Qwen model: on a GPU, or "
        f"{SMALLEST_CHINESE}, which a CPU trains slowly."
    )


def licence_note(base: KnownBase | None) -> str:
    """What its licence or its makers ask, where that is more than the usual."""
    if base is None:
        return ""
    if base.licence == RESEARCH_ONLY:
        return " Its licence allows research use only."
    if base.gated:
        return (
            f" {base.licence}: accept it on huggingface.co/{base.model_id} and set HF_TOKEN before it can be fetched."
        )
    return ""


def _without_card(chinese: float, hardware: Hardware, here: Callable[[str], bool]) -> tuple[str, str]:
    if chinese < MOSTLY:
        return "embedded", "Without a CUDA card only the embedded 135M model trains in minutes."
    small = find(SMALLEST_CHINESE)
    if small and here(small.model_id) and _fits_well(small, hardware):
        return small.model_id, (
            f"{chinese:.0%} of the rows are Chinese, which the embedded model does not know; this one does, and its "
            "weights are here already. On a CPU it is slow."
        )
    return "embedded", "Without a CUDA card only the embedded 135M model trains in minutes." + english_only_warning(
        chinese
    )


def _fits_well(base: KnownBase, hardware: Hardware, method: Method | None = None) -> bool:
    return any(way.fits == "yes" for way in ways(base, hardware, method))


def _memory(hardware: Hardware) -> str:
    return f"{hardware.budget_gib:.1f} GiB" if hardware.budget_gib is not None else "memory that is not known"


def _languages(languages: Mapping[str, int], base: KnownBase) -> str:
    chinese, other = _share(languages, CHINESE), _share(languages, "other")
    if chinese >= MOSTLY:
        return f" {chinese:.0%} of the rows are Chinese, which it was trained for."
    if other >= MOSTLY:
        return (
            f" {other:.0%} of the rows are neither English nor Chinese: see that their language is among those it was "
            f"trained for ({', '.join(base.languages)})."
        )
    return ""


def _share(languages: Mapping[str, int], code: str) -> float:
    """The share of rows in a language, 0 to 1; 0 when there are none."""
    total = sum(languages.values())
    return languages.get(code, 0) / total if total else 0.0
