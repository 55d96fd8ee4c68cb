"""Next-token distributions of a model of any size: each layer's weights are read when the layer is reached.

A model of 7 billion weights is evaluated in 32 bits with 4 GB of memory, at the price of reading its files once
per pass; so a few hundred tokens are read in one pass.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tunesmith.export.quality import TokenRow

if TYPE_CHECKING:
    import torch

    from tunesmith.export.skeleton import Skeleton

MEASURING_S = 45.0  # a slow machine measures on fewer rows rather than for ever
PATIENCE_S = 240.0  # but on one at least, unless it would take longer than this
READ_BYTES_PER_S = 0.7e9  # of an ordinary SSD, with the conversion to 32 bits
# A row that is this much longer than the shortest of its batch goes into another: it would be padding otherwise.
UNEVEN = 1.3
EFFICIENCY = 0.6  # of a model in comparison with one product of matrices
SPARE_BYTES = 2**29
GIB = 2**30

Source = Callable[["torch.nn.Module", str], "torch.Tensor"]  # layer and name of a stored tensor → what it computes with
Check = Callable[[], None]


class Unmeasured(Exception):
    """The distributions cannot be measured on this machine; says why, in words for the user."""


class Unreadable(Unmeasured):
    """The model computes in a way that does not allow its layers to be without their weights in between."""


@dataclass(frozen=True)
class Pass:
    """How rows are read by a model: on which device, in which batches.

    Attributes:
        device: "cuda" or "cpu".
        batches: rows that are read together.
    """

    device: str
    batches: list[list[TokenRow]]

    @property
    def rows(self) -> list[TokenRow]:
        """All rows, in the order in which they are evaluated."""
        return [row for batch in self.batches for row in batch]


def plan_pass(bones: Skeleton, rows: Sequence[TokenRow], *, all_rows: bool = False) -> Pass:
    """As many of the rows as memory takes and as can be read in a minute, in batches of similar length.

    Args:
        rows: at least one; the first ones are taken first.
        all_rows: take all, in this order.

    Raises:
        Unmeasured: memory or time does not suffice for one row.
    """
    vocabulary = int(bones.model.config.get_text_config().vocab_size)

    def bytes_of(chosen: Sequence[TokenRow]) -> int:
        # The largest matrix as it is stored and in 32 bits; scores as they are made, capped and used.
        return 6 * bones.files.largest + 12 * vocabulary * sum(len(row.positions) for row in chosen) + SPARE_BYTES

    shortest = min(rows, key=lambda row: len(row.ids))
    device, room = _device(bytes_of(rows if all_rows else [shortest]))
    rate = speed(device)

    def seconds(batches: list[list[TokenRow]]) -> float:
        padded = sum(len(batch) * max(len(row.ids) for row in batch) for batch in batches)
        return padded * 2 * bones.elements / rate + bones.files.bytes / READ_BYTES_PER_S * len(batches)

    def batched(chosen: Sequence[TokenRow]) -> list[list[TokenRow]]:
        """All at once, or in batches of similar length: whatever takes less time."""
        ordered = sorted(chosen, key=lambda row: len(row.ids))
        batches = [[ordered[0]]]
        for row in ordered[1:]:
            if len(row.ids) > UNEVEN * len(batches[-1][0].ids):
                batches.append([])
            batches[-1].append(row)
        return min(([ordered], batches), key=seconds)

    chosen: list[TokenRow] = list(rows) if all_rows else []
    for row in () if all_rows else rows:
        more = [*chosen, row]
        if seconds(batched(more)) > MEASURING_S or bytes_of(more) > room:
            break
        chosen = more
    chosen = chosen or [shortest]
    if bytes_of(chosen) > room:
        raise Unmeasured(f"it needs {bytes_of(chosen) / GIB:.1f} GiB of memory and {room / GIB:.1f} GiB are free")
    batches = [chosen] if all_rows else batched(chosen)
    if seconds(batches) > PATIENCE_S:
        raise Unmeasured(
            f"reading {len(chosen[0].ids)} tokens would take about {seconds(batches) / 60:.0f} minutes here "
            f"({bones.elements / 1e9:.1f} billion weights at {rate / 1e9:,.1f} GFLOP/s)"
        )
    return Pass(device, batches)


def evaluator(
    bones: Skeleton, model: Any, plan: Pass, check: Check, source: Source | None = None
) -> Callable[[list[int], list[int]], Iterator[Any]]:
    """Logits [vocabulary] at the asked positions, row by row in the order of `plan.rows`.

    Args:
        model: the skeleton's model, or PEFT's around it.
        source: what a layer computes with; default: what is stored.
        check: called before each layer.
    """
    reader = _Reader(bones, plan.device, check, source or (lambda _module, name: bones.files.read(name)))
    _bring(model, plan.device)
    results = (logits for batch in plan.batches for logits in reader.read(model, batch))

    def evaluate(_ids: list[int], positions: list[int]) -> Iterator[Any]:
        for _ in positions:
            yield next(results)

    return evaluate


class _Reader:
    """Runs a model whose layers find their weights when they are reached and lose them afterwards."""

    def __init__(self, bones: Skeleton, device: str, check: Check, source: Source) -> None:
        self.bones, self.device, self.check, self.source = bones, device, check, source
        self.empty: dict[torch.nn.Module, dict[str, Any]] = {}

    def read(self, model: Any, batch: list[TokenRow]) -> Iterator[Any]:
        """Logits [vocabulary], float32, one a position of each row."""
        try:
            scores = self._scores(model, batch)
        except RuntimeError as error:  # a layer that uses another's weights, an operation that this device lacks
            raise Unreadable(f"the model cannot be read layer by layer ({str(error)[:200]})") from error
        yield from scores

    def _scores(self, model: Any, batch: list[TokenRow]) -> Any:
        import torch

        width = max(len(row.ids) for row in batch)
        # Filled up on the right: attention looks back only, so nothing that counts sees the filling.
        ids = torch.tensor([row.ids + [0] * (width - len(row.ids)) for row in batch], device=self.device)
        asked = [(number, position) for number, row in enumerate(batch) for position in row.positions]
        rows, columns = (torch.tensor(part, device=self.device) for part in zip(*asked, strict=True))
        head = self.bones.model.get_output_embeddings()
        if head is None:
            raise Unreadable("the model has no layer of its own for the next token's scores")

        def keep_asked(_module: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
            return (arguments[0][rows, columns][None],)

        handles = [head.register_forward_pre_hook(keep_asked)]
        for module in self.bones.owners:
            handles.append(module.register_forward_pre_hook(self._fill))
            handles.append(module.register_forward_hook(self._clear))
        try:
            with torch.inference_mode():
                logits = model(input_ids=ids, use_cache=False).logits
        finally:
            for handle in handles:
                handle.remove()
            for module in list(self.empty):
                self._clear(module)
        if logits.shape[:2] != (1, len(asked)):
            raise Unreadable("the model does not compute its scores with its output layer")
        return logits[0].float().cpu().numpy()

    def _fill(self, module: torch.nn.Module, _arguments: Any) -> None:
        import torch

        self.check()
        self.empty[module] = dict(module.named_parameters(recurse=False))
        for name, stored in self.bones.owners[module].items():
            weight = self.source(module, stored).to(self.device).float()
            setattr(module, name, torch.nn.Parameter(weight, requires_grad=False))

    def _clear(self, module: torch.nn.Module, *_arguments: Any) -> None:
        for name, parameter in self.empty.pop(module, {}).items():
            setattr(module, name, parameter)


def _bring(model: Any, device: str) -> None:
    """Move what is in memory, rotary frequencies and the adapter, to where it is computed."""
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device))
        for parameter in module.parameters(recurse=False):
            if parameter.device.type != "meta":
                parameter.data = parameter.data.to(device)


def _device(needed: int) -> tuple[str, float]:
    """Where to compute, and the bytes that are free there: a card that has what is needed, else the processor."""
    import psutil
    import torch

    if torch.cuda.is_available():
        room = 0.9 * torch.cuda.mem_get_info()[0]
        if room >= needed:
            return "cuda", room
    return "cpu", 0.9 * psutil.virtual_memory().available


def speed(device: str, dtype: Any = None) -> float:
    """Operations a second that a model may reach here, by a product of matrices.

    Args:
        dtype: torch's; default float32. A processor may be hundreds of times slower in 16 bits.
    """
    import torch

    rows = 8 if dtype in (torch.float16, torch.bfloat16) and device == "cpu" else 128
    left, right = (torch.randn(size, 2048, device=device).to(dtype or torch.float32) for size in (rows, 2048))
    best = float("inf")
    for _ in range(3):  # the first one wakes threads and loads kernels
        began = time.perf_counter()
        float((left @ right).float().sum())  # waits for a card
        best = min(best, time.perf_counter() - began)
    return 2 * rows * 2048 * 2048 / best * EFFICIENCY
