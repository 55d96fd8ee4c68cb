"""What a plan may count on: the device, its memory, and which engines and methods work there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import psutil

from tunesmith.errors import MissingExtra, NotSupported
from tunesmith.machine.packages import numbers
from tunesmith.training.kernels import MIN_TORCH, keeps_rows_apart
from tunesmith.training.process import usable_cores
from tunesmith.training.recipe import MAX_PROCESSES, Engine, Method, Optimizer, RecipeOptions
from tunesmith.training.records import AssumedGpu

if TYPE_CHECKING:
    from tunesmith.machine.records import Gpu, MachineReport

GIB = 2**30
AS_ASKED = "As you asked."
GPU_SHARE = 0.95  # of what is free; the rest is for fragmentation and the desktop
CONTEXT_GIB = 0.5  # what CUDA and its libraries hold in each process, outside what torch reserves and is planned
RAM_SHARE = 0.8
DEVICE_SLOT = "device0"
MIN_CAPABILITY_UNSLOTH = 7.0
NO_CUDA_NEXT = "Leave it out, or plan for a card with assume_gpu; check_gpu says what this machine has."


@dataclass(frozen=True)
class Hardware:
    """Where a run would train. Memory in GiB; `capability` is CUDA's, 0 without a card.

    `places` is for how many training processes there is room: cards alike, or cores. `torch` is its version.
    """

    device: Literal["cuda", "cpu"]
    name: str
    budget_gib: float | None
    capability: float
    assumed: bool
    unsloth: bool
    bitsandbytes: bool
    places: int = 1
    notes: tuple[str, ...] = ()
    torch: tuple[int, ...] = MIN_TORCH

    @property
    def cuda(self) -> bool:
        return self.device == "cuda"


def find_hardware(machine: MachineReport | None, assume_gpu: AssumedGpu | None, budget_gib: float | None) -> Hardware:
    """The hardware to plan for: the assumed card, else this machine's first usable one, else the CPU."""
    if assume_gpu is not None:
        capability = float(assume_gpu.compute_capability or "8.0")
        return Hardware(
            device="cuda",
            name=assume_gpu.name or f"a card of {assume_gpu.total_gib:g} GiB",
            budget_gib=budget_gib or _usable(assume_gpu.total_gib),
            capability=capability,
            assumed=True,
            unsloth=capability >= MIN_CAPABILITY_UNSLOTH,
            bitsandbytes=True,
            places=MAX_PROCESSES,
            notes=("Planned for a card this machine does not have; Unsloth and bitsandbytes are taken as installed.",),
        )
    card, notes = _usable_card(machine)
    if card is not None and machine is not None:
        return Hardware(
            device="cuda",
            name=card.name,
            budget_gib=budget_gib or _usable(card.free_gib + _held_by_runs(card)),
            capability=float(card.compute_capability or 0),
            assumed=False,
            unsloth=_works(machine, "unsloth"),
            bitsandbytes=_works(machine, "bitsandbytes"),
            torch=numbers(machine.torch.version or ""),
            places=max(1, len(_cards_alike(machine))),
            notes=notes + _held_memory(card),
        )
    free = machine.ram_free_gib if machine is not None else psutil.virtual_memory().available / GIB
    return Hardware(
        device="cpu",
        name="CPU",
        budget_gib=budget_gib or round(free * RAM_SHARE, 2),
        capability=0.0,
        assumed=False,
        unsloth=False,
        bitsandbytes=False,
        places=usable_cores(),
        notes=notes,
    )


def _usable(free_gib: float) -> float:
    """GiB of a card that torch may reserve."""
    return round(max(0.1, free_gib * GPU_SHARE - CONTEXT_GIB), 2)


def _usable_card(machine: MachineReport | None) -> tuple[Gpu | None, tuple[str, ...]]:
    cards = _cuda_cards(machine)
    if machine is None or not cards:
        return None, ()
    if machine.torch.cuda is None:
        return None, (f"{cards[0].name} is not used: the installed torch has no CUDA. Install a CUDA build of torch.",)
    return max(cards, key=lambda card: card.free_gib + _held_by_runs(card)), ()


def device_slots(machine: MachineReport) -> dict[str, dict[str, str]]:
    """The slots a training may run in, and the variables a worker there is given.

    One slot a card as large and as able as the one that is planned for; one slot in all on a machine without cards,
    and where CUDA_VISIBLE_DEVICES says already which are to be used.
    """
    planned, _ = _usable_card(machine)
    cards = _cuda_cards(machine)
    if planned is None or len(cards) == 1 or "CUDA_VISIBLE_DEVICES" in os.environ:
        return {DEVICE_SLOT: {}}
    return {f"gpu:{card.uuid}": {"CUDA_VISIBLE_DEVICES": str(card.uuid)} for card in _cards_alike(machine)}


def _cards_alike(machine: MachineReport) -> list[Gpu]:
    """The cards as large and as able as the one that is planned for, of those that CUDA_VISIBLE_DEVICES leaves."""
    planned, _ = _usable_card(machine)
    visible = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return [
        card
        for card in _cuda_cards(machine)
        if planned is not None
        and card.total_gib >= planned.total_gib * 0.98
        and card.compute_capability == planned.compute_capability
        and (not visible or str(card.index) in visible or str(card.uuid) in visible)
    ]


def _cuda_cards(machine: MachineReport | None) -> list[Gpu]:
    return [card for card in machine.gpus if card.compute_capability] if machine is not None else []


def _held_by_runs(card: Gpu) -> float:
    """GiB that runs of ours hold on a card: a run that is planned now gets its turn when they have ended."""
    return sum(process.gib or 0.0 for process in card.processes if process.name.startswith("tunesmith"))


def _works(machine: MachineReport, package: str) -> bool:
    facts = machine.packages.get(package)
    return facts is not None and facts.version is not None and facts.ok


def _held_memory(card: Gpu) -> tuple[str, ...]:
    held = [
        process for process in card.processes if (process.gib or 0) >= 0.5 and not process.name.startswith("tunesmith")
    ]
    return tuple(
        f"{process.name} (pid {process.pid}) holds {process.gib:.1f} GiB of {card.name}"
        + (
            "; free it with: ollama stop MODEL."
            if "ollama" in process.name.lower()
            else "; end it to free that memory."
        )
        for process in held
    )


def joins_rows(config: Mapping[str, Any], hardware: Hardware) -> bool:
    """Whether the transformers engine packs rows of this model without a mask there."""
    capability = hardware.capability if hardware.cuda else None
    return keeps_rows_apart(config, capability=capability, torch=hardware.torch)


def choose_engine(options: RecipeOptions, hardware: Hardware, *, joins: bool = False) -> tuple[Engine, str]:
    """The engine and why.

    Args:
        joins: the transformers engine packs this model's rows without a mask.

    Raises:
        NotSupported, MissingExtra: unsloth was asked for by name and cannot work here.
    """
    if options.method == "full":
        if options.engine == "unsloth":
            raise NotSupported(
                "engine='unsloth' trains adapters here, not every weight (method='full').",
                next="Leave engine out, or use method='lora'.",
            )
        # Unsloth's own way keeps the weights in 16 bits, which loses small updates; in 32 bits it saves little.
        why = AS_ASKED if options.engine else "Every weight is trained, in 32 bits: Unsloth is used for adapters."
        return "transformers", why
    if options.engine == "unsloth" and not hardware.unsloth:
        if not hardware.cuda:
            raise NotSupported("engine='unsloth' needs an NVIDIA GPU, and there is none to use.", next=NO_CUDA_NEXT)
        if hardware.assumed:
            raise NotSupported(
                f"engine='unsloth' needs compute capability {MIN_CAPABILITY_UNSLOTH} or above.",
                next="Leave engine out.",
            )
        raise MissingExtra("unsloth", extra="unsloth", purpose="train with engine='unsloth'")
    if options.engine in ("unsloth", "transformers"):
        return options.engine, AS_ASKED
    if hardware.cuda and joins and options.packing is not False:
        return "transformers", "Rows packed without a mask, blocks compiled in longer runs: the fastest way measured."
    if hardware.unsloth:
        return "unsloth", "Fast on an NVIDIA GPU, in the least memory."
    why = "Unsloth is not installed or does not work here." if hardware.cuda else "Unsloth needs an NVIDIA GPU."
    return "transformers", f"TRL and PEFT run everywhere. {why}"


def choose_optimizer(options: RecipeOptions, hardware: Hardware) -> tuple[Optimizer, str]:
    """The optimizer and why.

    Raises:
        NotSupported, MissingExtra: an 8-bit one was asked for by name and cannot work here.
    """
    if options.optimizer is not None:
        if "8bit" in options.optimizer and not hardware.cuda:
            raise NotSupported(
                f"optimizer={options.optimizer!r} needs an NVIDIA GPU (bitsandbytes), and there is none to use.",
                next="Leave optimizer out or use adamw_torch.",
            )
        if "8bit" in options.optimizer and not hardware.bitsandbytes:
            raise MissingExtra("bitsandbytes", extra="train", purpose=f"use optimizer={options.optimizer!r}")
        return options.optimizer, AS_ASKED
    if hardware.bitsandbytes and options.method != "full":
        return "adamw_torch", "All matrices in one pass: faster than in 8 bits, for little memory beside the weights."
    if hardware.bitsandbytes:
        return "adamw_8bit", "A quarter of the optimizer memory at the same result."
    return "adamw_torch", "The 8-bit optimizer needs an NVIDIA GPU with bitsandbytes; this is the same in 32 bits."


def check_method(options: RecipeOptions, hardware: Hardware) -> None:
    """Refuse a method this version or machine cannot do.

    Raises:
        NotSupported, MissingExtra: naming it.
    """
    method: Method | None = options.method
    if method == "qlora" and not hardware.cuda:
        raise NotSupported(
            "method='qlora' needs an NVIDIA GPU (4-bit weights through bitsandbytes), and there is none to use.",
            next="Use method='lora' or leave method out, or plan for a card with assume_gpu.",
        )
    if method == "qlora" and not hardware.bitsandbytes:
        raise MissingExtra("bitsandbytes", extra="train", purpose="train with method='qlora'")
