"""A causal language model without its weights: its layers, and where in its files each layer's weights lie."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.export.weight_files import DTYPES, WeightFiles

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Skeleton:
    """A model whose parameters hold no memory.

    Attributes:
        model: transformers' model in 32 bits, parameters on the meta device, buffers that no file holds computed.
        files: its weights.
        owners: every module that has parameters itself, with their names in it → the names of their tensors in the
            files. Parameters that are put together from several tensors when they are loaded, as the experts of some
            models, are not in it.
        missing: parameters that are not in `owners`.
    """

    model: Any
    files: WeightFiles
    owners: dict[torch.nn.Module, dict[str, str]]
    missing: list[str]

    @property
    def elements(self) -> int:
        """Weights in all tensors together."""
        return sum(place.elements for place in self.files.places.values())


def skeleton(folder: Path) -> Skeleton:
    """The model in a folder with config and safetensors. No weight is read.

    Raises:
        BadInput: the files are damaged.
    """
    import torch
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForCausalLM

    files = WeightFiles(folder)
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    # Not torch.device("meta"): rotary frequencies and the like are in no file, so they are computed here.
    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.tie_weights()
    model.eval()
    stored, missing = _stored(model, files)
    owners: dict[torch.nn.Module, dict[str, str]] = {}
    for module in model.modules():
        own = {name: stored[id(p)] for name, p in module.named_parameters(recurse=False) if id(p) in stored}
        if own:
            owners[module] = own
    return Skeleton(model, files, owners, missing)


def _stored(model: Any, files: WeightFiles) -> tuple[dict[int, str], list[str]]:
    """Parameters by their ids, and the names of those that are not stored as they are."""
    plain = _plain_names(model, files.places)
    by_parameter: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        by_parameter.setdefault(id(parameter), []).append(name)
    stored: dict[int, str] = {}
    missing: list[str] = []
    for name, parameter in model.named_parameters():
        # Of tied parameters, one is stored. Where all are, the library decides what that means, not this.
        found = [plain[alias] for alias in by_parameter[id(parameter)] if alias in plain]
        if len(found) == 1 and _fits(files, found[0], parameter):
            stored[id(parameter)] = found[0]
        else:
            missing.append(name)
    missing += [name for name, buffer in model.named_buffers() if buffer.device.type == "meta"]
    return stored, missing


def _fits(files: WeightFiles, name: str, parameter: Any) -> bool:
    place = files.places[name]
    return place.shape == tuple(parameter.shape) and place.dtype in DTYPES


def _plain_names(model: Any, stored: Iterable[str]) -> dict[str, str]:
    """Parameter → tensor, for tensors that are loaded as they are: renamed at most, as the library does it."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    known = model.state_dict()
    rules = get_model_conversion_mapping(model)
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    found: dict[str, str] = {}
    for name in stored:
        renamed, converted = rename_source_key(name, renamings, converters, model.base_model_prefix, known)
        if renamed not in known and name in known:
            renamed, converted = name, None
        if converted is None and renamed in known:
            found[renamed] = name
    return found
