"""What a LoRA adapter adds to which tensor of its base, as PEFT itself understands the adapter."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.errors import BadInput, CheckFailed
from tunesmith.export.skeleton import Skeleton

if TYPE_CHECKING:
    import torch

ADAPTER_FILE = "adapter_model.safetensors"
NAME = "default"  # PEFT's name of the only adapter
# Settings that change which matrices are adapted and with what factor, which PEFT works out, or nothing after training.
UNDERSTOOD = {
    "r", "lora_alpha", "lora_dropout", "target_modules", "exclude_modules", "rank_pattern", "alpha_pattern",
    "use_rslora", "layers_to_transform", "layers_pattern", "task_type", "peft_type", "inference_mode",
    "base_model_name_or_path", "revision", "auto_mapping", "init_lora_weights", "peft_version", "eva_config",
    "corda_config", "lora_ga_config", "megatron_config", "megatron_core", "loftq_config", "runtime_config",
}  # fmt: skip
# How the matrices began, where that left the base as it was.
HARMLESS_BEGINNINGS = (True, False, "gaussian")


class NotPlain(Exception):
    """The adapter holds something that is not a plain low-rank change of stored matrices; says what."""


@dataclass(frozen=True)
class Change:
    """What is added to one matrix: `scale` x B A.

    Attributes:
        a: float32, [rank, in].
        b: float32, [out, rank].
    """

    a: torch.Tensor
    b: torch.Tensor
    scale: float

    def applied_to(self, weight: torch.Tensor) -> torch.Tensor:
        """The changed matrix [out, in], computed in 32 bits and rounded once to the number format of `weight`.

        Raises:
            CheckFailed: it holds NaN or infinity.
        """
        import torch

        changed = (weight.float() + (self.b @ self.a) * self.scale).to(weight.dtype)
        if not torch.isfinite(changed).all():
            raise CheckFailed(
                "The adapter cannot be merged: the merged weights would hold NaN or infinity.",
                next="Call diagnose_run for the training run: an adapter that holds NaN has diverged.",
            )
        return changed


def put_adapter_on(bones: Skeleton, adapter: Path) -> tuple[Any, dict[str, Change]]:
    """PEFT's model around a skeleton, and what its adapter changes: stored tensor → change.

    The adapter's matrices are in memory, in 32 bits; the base's are not.

    Raises:
        NotPlain: something here is beyond plain LoRA; PEFT can merge it into a whole model.
        BadInput: the adapter cannot be read.
    """
    import torch
    from peft import LoraConfig, PeftConfig, PeftModel
    from peft.tuners.lora import Linear, LoraLayer
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        config = PeftConfig.from_pretrained(str(adapter))
        tensors = load_file(adapter / ADAPTER_FILE)
    except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
        raise BadInput(
            f"The adapter in {adapter} cannot be read: {str(error)[:300]}",
            next="Restore that folder from a copy, or train again.",
        ) from error
    if not isinstance(config, LoraConfig):
        raise NotPlain(f"it is of type {config.peft_type}")
    _refuse_unknown(config)
    owners = dict(bones.owners)
    # A tied matrix would be changed in two places at once.
    uses: dict[int, int] = {}
    for _, parameter in bones.model.named_parameters(remove_duplicate=False):
        uses[id(parameter)] = uses.get(id(parameter), 0) + 1
    config.inference_mode = True
    try:
        model = PeftModel(bones.model, config, low_cpu_mem_usage=True)
    except ValueError as error:  # no module of those names, or of a kind that LoRA does not know
        raise NotPlain(str(error)[:300]) from error
    changes: dict[str, Change] = {}
    for name, layer in model.named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        base: Any = layer.get_base_layer()
        if type(layer) is not Linear or type(base) is not torch.nn.Linear or layer.lora_variant or layer.fan_in_fan_out:
            raise NotPlain(f"{name} is adapted as {type(layer).__name__} of {type(base).__name__}")
        stored = owners.get(base, {}).get("weight")
        if stored is None or uses.get(id(base.weight), 0) != 1:
            raise NotPlain(f"{name} is not one stored matrix of its own")
        pair = [tensors.pop(f"{name}.lora_{part}.weight", None) for part in "AB"]
        places: tuple[Any, Any] = (layer.lora_A[NAME], layer.lora_B[NAME])
        for place, tensor in zip(places, pair, strict=True):
            if tensor is None or tensor.shape != place.weight.shape:
                raise NotPlain(f"the adapter's file lacks {name}, or has it in another shape")
            place.weight = torch.nn.Parameter(tensor.float(), requires_grad=False)
        changes[stored] = Change(places[0].weight.data, places[1].weight.data, float(layer.scaling[NAME]))
    if tensors:
        raise NotPlain(f"the adapter's file holds {sorted(tensors)[0]}, which is no part of a plain LoRA on this base")
    return model.eval(), changes


def _refuse_unknown(config: Any) -> None:
    usual = type(config)().to_dict()
    for name, value in config.to_dict().items():
        # An empty list stands for none.
        if name not in UNDERSTOOD and (value or None) != (usual.get(name) or None):
            raise NotPlain(f"its configuration sets {name}")
    if config.init_lora_weights not in HARMLESS_BEGINNINGS:
        raise NotPlain(f"its matrices began as {config.init_lora_weights}, which may have changed the base")
