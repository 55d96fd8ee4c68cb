"""An importance matrix: which columns of a weight matter, so that rounding spares them.

A quantiser rounds each weight by itself. What the error does to the output depends on the number it is multiplied
with: a column whose inputs are large counts more. The statistic is llama.cpp's own, for each linear layer and column

    the sum over calibration tokens of input², and the number of tokens

in the file that its `llama-imatrix` writes and its `llama-quantize --imatrix` reads: a GGUF whose tensors are
`NAME.in_sum2` and `NAME.counts`. The tokens are training rows as the model saw them, so nothing that the files are
measured on is in it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.errors import OutOfMemory
from tunesmith.export import merge_whole
from tunesmith.models.gguf_file import GgufFile, read_gguf

if TYPE_CHECKING:
    import numpy as np

    from tunesmith.export.quality import TokenRow

# Rows are read until there are so many tokens or so much time has passed.
ENOUGH_TOKENS = 2048
READING_S = 30.0
GIVING_UP_S = 5.0
# Of fewer tokens the squares say more about the rows than about the model.
MIN_TOKENS = 512
SUMS, COUNTS = ".in_sum2", ".counts"


@dataclass(frozen=True)
class Importance:
    """A matrix on the disk.

    Attributes:
        file: the GGUF.
        tokens: calibration tokens it was collected from.
        tensors: weights it covers.
    """

    file: Path
    tokens: int
    tensors: int


def collect(
    weights: Path, gguf: Path, rows: Sequence[TokenRow], output: Path, *, check: Callable[[], None]
) -> Importance | None:
    """Run the 16- or 32-bit model over `rows` and write the matrix of its linear layers.

    Args:
        weights: folder with config and safetensors.
        gguf: the same model as llama.cpp has it: gives the names and widths of its weights.
        rows: calibration texts; 2,048 tokens or 30 seconds of them are read.
        check: called after each row; raises when the run was cancelled.

    Returns:
        None where too few tokens could be read, or memory has no room for the weights.
    """
    import torch

    try:
        model = merge_whole.load(weights)
    except OutOfMemory:
        return None
    device, dtype = merge_whole.where(model)
    model.to(device=device, dtype=dtype)
    sums: dict[str, Any] = {}
    hooks = [module.register_forward_pre_hook(_adder(sums, name)) for module, name in _names(model, gguf)]
    tokens, began = 0, time.monotonic()
    try:
        with torch.inference_mode():
            for row in rows:
                # Without the head: no other layer reads the last one's output.
                model.base_model(input_ids=torch.tensor([row.ids], device=device), use_cache=False)
                tokens += len(row.ids)
                check()
                passed = time.monotonic() - began
                # A machine that cannot read enough in that time need not try.
                hopeless = passed > GIVING_UP_S and tokens / passed * READING_S < MIN_TOKENS
                if tokens >= ENOUGH_TOKENS or passed > READING_S or hopeless:
                    break
    finally:
        for hook in hooks:
            hook.remove()
    if tokens < MIN_TOKENS or not sums:
        return None
    _write(output, {name: total.cpu().numpy() for name, total in sums.items()}, tokens)
    return Importance(output, tokens, len(sums))


def read_matrix(path: Path) -> dict[str, np.ndarray]:
    """Mean squares by weight, float32 arrays of shape (columns,), of a file that `collect` or llama.cpp wrote."""
    import numpy as np
    from gguf import GGUFReader

    tensors = {tensor.name: np.asarray(tensor.data, dtype=np.float32) for tensor in GGUFReader(path).tensors}
    return {
        name.removesuffix(SUMS): (sums / max(1.0, float(tensors[name.removesuffix(SUMS) + COUNTS].ravel()[0]))).ravel()
        for name, sums in tensors.items()
        if name.endswith(SUMS)
    }


def _adder(sums: dict[str, Any], name: str) -> Callable[[Any, tuple[Any, ...]], None]:
    def add(_module: Any, inputs: tuple[Any, ...]) -> None:
        import torch

        values = inputs[0].reshape(-1, inputs[0].shape[-1]).float()
        total = (values * values).sum(0, dtype=torch.float64)
        sums[name] = sums[name] + total if name in sums else total

    return add


def ggml_names(file: GgufFile) -> Callable[[str], str | None]:
    """A function from a tensor's name in safetensors to its name in a GGUF of that architecture."""
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    architecture = file.fields.get("general.architecture")
    kinds = {name: kind for kind, name in MODEL_ARCH_NAMES.items()}
    if architecture not in kinds:
        return lambda _name: None
    names = get_tensor_name_map(kinds[architecture], int(file.fields[f"{architecture}.block_count"]))
    return lambda name: names.get_name(name, try_suffixes=(".weight",))


def _names(model: Any, gguf: Path) -> list[tuple[Any, str]]:
    """The linear layers whose weight is in the GGUF, with its name there."""
    import torch

    file = read_gguf(gguf)
    names = ggml_names(file)
    widths = {tensor.name: tensor.shape[-1] for tensor in file.tensors}
    found = []
    for path, module in model.named_modules():
        if not isinstance(module, torch.nn.Linear):
            continue
        name = names(f"{path}.weight")
        if name is not None and widths.get(name) == module.in_features:
            found.append((module, name))
    return found


def _write(output: Path, sums: dict[str, np.ndarray], tokens: int) -> None:
    import numpy as np
    from gguf import GGUFWriter

    writer = GGUFWriter(output, arch="", use_temp_file=False)
    writer.add_string("general.type", "imatrix")
    writer.add_array("imatrix.datasets", ["training rows"])
    writer.add_uint32("imatrix.chunk_count", 1)
    writer.add_uint32("imatrix.chunk_size", tokens)
    for name in sorted(sums):
        writer.add_tensor(name + SUMS, sums[name].astype(np.float32).reshape(1, -1))
        writer.add_tensor(name + COUNTS, np.full((1, 1), tokens, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
