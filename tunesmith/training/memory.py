"""How much memory a run needs, from the model's config alone.

Not calibrated against a card yet: every term is a count of bytes that the
computation must hold, with the source of each formula beside it, and the
interval around the sum is wide until runs of this workspace have been measured
(see `history.py`, whose ratios of measured to predicted replace it).

Sources:
- QLoRA (Dettmers et al. 2023, arXiv:2305.14314): NF4 costs 4 bits a weight, the double-quantised block constants
  0.127 bits more; embeddings, norms and head stay in 16 bits.
- 8-bit optimizers (Dettmers et al. 2022, arXiv:2110.02861): two states of one byte a weight and one float a block.
- Korthikanti et al. 2022, arXiv:2205.05198: activations saved for the backward pass, layer by layer; recomputation
  keeps one input a layer and one layer in full. Their count is for GPT; ours is the same count for a gated MLP with
  grouped-query attention whose scores are never materialised (SDPA, FlashAttention).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tunesmith.errors import NotSupported
from tunesmith.training.records import MemoryBreakdown

GIB = 2**30
NF4_BYTES = (4 + 0.127) / 8
CHUNK_TOKENS = 256  # TRL and Unsloth compute the logits for this many tokens at a time
CPU_LOGIT_TOKENS = 512  # on a CPU ours does: up to so many, they are computed once and kept for the backward pass
UNCALIBRATED = (0.7, 1.4)  # the interval as factors of the estimate, until something was measured
ADAM_8BIT_BYTES = 2 + 2 * 4 / 256  # two states of a byte, a float of scale for each block of 256

ATTENTION_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP_MODULES = ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Shape:
    """The numbers of a decoder that memory depends on. Widths in elements."""

    hidden: int
    intermediate: int
    layers: int
    query_width: int
    key_width: int
    vocabulary: int
    tied: bool
    context: int
    model_type: str

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Shape:
        """Read from a model's `config.json`.

        Raises:
            NotSupported: it is not a decoder with a gated MLP as Llama, Qwen2/3, Mistral, Gemma or SmolLM2 have.
        """
        try:
            hidden = int(config["hidden_size"])
            heads = int(config["num_attention_heads"])
            head = int(config.get("head_dim") or hidden // heads)
            return cls(
                hidden=hidden,
                intermediate=int(config["intermediate_size"]),
                layers=int(config["num_hidden_layers"]),
                query_width=heads * head,
                key_width=int(config.get("num_key_value_heads") or heads) * head,
                vocabulary=int(config["vocab_size"]),
                tied=bool(config.get("tie_word_embeddings", False)),
                context=int(config.get("max_position_embeddings") or 2048),
                model_type=str(config.get("model_type", "unknown")),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise NotSupported(
                f"The model's config lacks {error}, so its memory cannot be planned "
                f"(model_type {config.get('model_type', 'unknown')!r}).",
                next="Choose a text model of the Llama, Qwen, Mistral, Gemma or SmolLM2 families.",
            ) from error

    @property
    def modules(self) -> dict[str, tuple[int, int]]:
        """The linear layers of one block that can carry an adapter: name → (inputs, outputs)."""
        h, q, k, i = self.hidden, self.query_width, self.key_width, self.intermediate
        if self.model_type.startswith("phi3"):  # one matrix for queries, keys and values, one for gate and up
            return {"qkv_proj": (h, q + 2 * k), "o_proj": (q, h), "gate_up_proj": (h, 2 * i), "down_proj": (i, h)}
        return {
            "q_proj": (h, q),
            "k_proj": (h, k),
            "v_proj": (h, k),
            "o_proj": (q, h),
            "gate_proj": (h, i),
            "up_proj": (h, i),
            "down_proj": (i, h),
        }

    @property
    def linear_parameters(self) -> int:
        """Weights of all blocks' linear layers: what 4-bit quantisation packs."""
        return self.layers * sum(a * b for a, b in self.modules.values())

    @property
    def other_parameters(self) -> int:
        """Embeddings, an untied head, and norms: what stays in 16 or 32 bits."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2) + (2 * self.layers + 1) * self.hidden

    @property
    def parameters(self) -> int:
        return self.linear_parameters + self.other_parameters

    def adapter_parameters(self, rank: int, targets: Sequence[str]) -> int:
        """Weights of a LoRA adapter: `rank × (inputs + outputs)` for each target of each block."""
        return self.layers * sum(rank * sum(self.modules[name]) for name in targets)


@dataclass(frozen=True)
class Load:
    """What a run asks of memory. Lengths in tokens."""

    device: Literal["cuda", "cpu"]
    method: str
    engine: str
    rank: int
    targets: tuple[str, ...]
    dropout: float
    batch_size: int
    length: int
    recompute: bool
    optimizer: str
    weight_bytes: int = 2  # bytes a weight in the number format of the computation: 4 on a CPU in float32


def predict(shape: Shape, load: Load) -> MemoryBreakdown:
    """The predicted peak, term by term, in GiB. Its sum is the estimate."""
    trained = shape.adapter_parameters(load.rank, load.targets)
    weights = _weight_bytes(shape, load)
    adapter = trained * _adapter_bytes(load)
    gradients = adapter
    optimizer = trained * (ADAM_8BIT_BYTES if "8bit" in load.optimizer else 2 * _adapter_bytes(load))
    activations = _activation_bytes(shape, load)
    logits = _logit_bytes(shape, load)
    overhead = _overhead_bytes(shape, load, weights + adapter + gradients + optimizer + activations + logits)
    return MemoryBreakdown(
        weights=_gib(weights),
        adapter=_gib(adapter),
        optimizer=_gib(optimizer),
        gradients=_gib(gradients),
        activations=_gib(activations),
        logits=_gib(logits),
        overhead=_gib(overhead),
    )


def total(breakdown: MemoryBreakdown) -> float:
    """The sum of the terms, GiB."""
    return round(sum(breakdown.model_dump().values()), 3)


def _gib(count: float) -> float:
    return round(count / GIB, 4)


def _weight_bytes(shape: Shape, load: Load) -> float:
    if load.method == "qlora":
        return shape.linear_parameters * NF4_BYTES + shape.other_parameters * 2
    return shape.parameters * load.weight_bytes


def _adapter_bytes(load: Load) -> int:
    """PEFT keeps an adapter in 32 bits; TRL casts it to 16 when the base is quantised."""
    return 2 if load.method == "qlora" and load.engine == "transformers" else 4


def _activation_bytes(shape: Shape, load: Load) -> float:
    """Saved for the backward pass, for one micro-batch.

    Per token and block, in elements of the computation's format unless said otherwise:
    two norms keep their input in 32 bits; attention keeps queries, keys, values and its output; the gated MLP keeps
    gate, activated gate and up, and their product feeds the down projection; each adapter keeps its input, in its own
    format, and with dropout a mask of one byte and the thinned input.
    """
    tokens = load.batch_size * load.length
    unit = 2 if load.device == "cuda" else load.weight_bytes
    attention = unit * (2 * shape.query_width + 2 * shape.key_width)
    mlp = unit * 4 * shape.intermediate
    norms = 2 * 4 * shape.hidden
    adapter_unit = _adapter_bytes(load)
    inputs = sum(shape.modules[name][0] for name in load.targets)
    # An adapter in the computation's own format shares its input with the layer before it.
    adapters = inputs * adapter_unit if adapter_unit != unit else shape.hidden * unit * 2
    if load.dropout > 0:
        adapters += inputs * (adapter_unit + 1)
    block = attention + mlp + norms + adapters
    if load.recompute:
        return tokens * (shape.layers * shape.hidden * unit + block)
    return tokens * shape.layers * block


def _logit_bytes(shape: Shape, load: Load) -> float:
    """A chunk of logits: in the computation's format, in 32 bits, as log-probabilities and as their gradient."""
    tokens = load.batch_size * load.length
    chunk = min(CPU_LOGIT_TOKENS if load.device == "cpu" else CHUNK_TOKENS, tokens)
    unit = 2 if load.device == "cuda" else load.weight_bytes
    return chunk * shape.vocabulary * (unit + 3 * 4)


def _overhead_bytes(shape: Shape, load: Load, rest: float) -> float:
    if load.device == "cpu":
        # Interpreter, torch and the libraries around it; malloc keeps a third more than is in use, for its blocks are
        # of many lengths (seen with a 135M model in batches of 4 rows up to 457 tokens: 5.1 GiB in float32).
        return 0.9 * GIB + 0.35 * rest
    # CUDA context and library workspaces, a tenth of allocator slack, and for 4-bit weights the largest layer unpacked.
    largest = max(a * b for a, b in shape.modules.values())
    unpacked = 2 * 2 * largest if load.method == "qlora" else 0
    return 0.8 * GIB + 0.1 * rest + unpacked
