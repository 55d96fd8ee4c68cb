"""How much memory a run needs, from the model's config alone.

Every term is a count of bytes that the computation must hold. On a card their sum is what torch's allocator reserves
at its peak (`torch.cuda.max_memory_reserved`); the context of CUDA itself comes on top and is taken from the budget
(see `hardware.py`). What the runs of a workspace measured makes the interval around the sum (see `history.py`).

Sources:
- QLoRA (Dettmers et al. 2023, arXiv:2305.14314): NF4 costs 4 bits a weight, the double-quantised block constants
  0.127 bits more; embeddings, norms and head stay in 16 bits.
- 8-bit optimizers (Dettmers et al. 2022, arXiv:2110.02861): two states of one byte a weight and one float a block.
- Korthikanti et al. 2022, arXiv:2205.05198: activations saved for the backward pass, layer by layer; recomputation
  keeps one input a layer and one layer in full. Their count is for GPT; ours is the same count for a gated MLP with
  grouped-query attention whose scores are never materialised (SDPA, FlashAttention).
- What each operation keeps: the forward passes of transformers 5.17, PEFT 0.21 and Unsloth 2026.10, read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tunesmith.errors import NotSupported
from tunesmith.training.records import MemoryBreakdown

GIB = 2**30
NF4_BYTES = (4 + 0.127) / 8
LOGIT_TOKENS = 512  # the scores of so many tokens are computed at a time
PAIR_LOGITS = 2048, 8192  # tokens and tokens of the vocabulary whose scores TRL computes at a time for pairs
UNSLOTH_LOGITS = 512 * 151936  # Unsloth's chunk of scores, where the vocabulary is small
UNCALIBRATED = (0.9, 1.15)  # the interval as factors of the estimate, until this workspace has measured something
UNCALIBRATED_CPU = (0.7, 1.4)
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
    """What a run asks of memory. Lengths in tokens.

    Attributes:
        masked: attention is told which tokens may see which: rows of unlike length in a batch, or several rows packed
            into one sequence.
        packed: the sequences of a micro-batch are joined into one of `batch_size × length`.
        compiled: the blocks are compiled, rows packed without a mask.
        weight_bytes: bytes a weight in the number format of the computation: 4 on a CPU in float32.
        accumulates: an optimizer step takes several passes, so gradients are there during a forward pass. It matters
            where every weight is trained.
        pairs: each row is two sequences whose answers' log-probabilities are taken in tiles of tokens × vocabulary.
    """

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
    masked: bool = False
    packed: bool = False
    weight_bytes: int = 2
    compiled: bool = False
    accumulates: bool = False
    pairs: bool = False

    @property
    def tokens(self) -> int:
        """Of one micro-batch."""
        return self.batch_size * self.length

    @property
    def unit(self) -> int:
        """Bytes of a number of the computation."""
        return 2 if self.device == "cuda" else self.weight_bytes

    @property
    def unsloth(self) -> bool:
        return self.engine == "unsloth"


def predict(shape: Shape, load: Load) -> MemoryBreakdown:
    """The predicted peak, term by term, in GiB. Its sum is the estimate.

    The peak is at the end of the forward pass, with the scores of a chunk at hand, or a moment later in the backward
    pass of a block: `logits` is what the first needs, and `activations` holds what the second needs beyond it.
    """
    if load.method == "full":
        from tunesmith.training.whole_memory import predict_whole  # which needs what is defined above

        return predict_whole(shape, load)
    trained = shape.adapter_parameters(load.rank, load.targets)
    weights = _weight_bytes(shape, load)
    adapter = trained * _adapter_bytes(load)
    gradients = adapter
    optimizer = trained * (ADAM_8BIT_BYTES if "8bit" in load.optimizer else 2 * _adapter_bytes(load))
    logits = _logit_bytes(shape, load)
    saved, at_work = _activation_bytes(shape, load)
    activations = saved + max(0.0, at_work - logits)
    overhead = _overhead_bytes(shape, load, weights + adapter + gradients + optimizer, activations + logits)
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
    """PEFT and Unsloth keep an adapter in 32 bits; TRL casts it to 16 when the base is quantised."""
    return 2 if load.method == "qlora" and not load.unsloth else 4


def _block_bytes(shape: Shape, load: Load) -> float:
    """What one block saves for its backward pass, a token."""
    unit = load.unit
    norms = 4 if shape.model_type.startswith(("gemma2", "gemma3")) else 2
    normed = norms * shape.hidden
    if shape.model_type.startswith(("qwen3", "gemma3")):  # queries and keys are normed too
        normed += shape.query_width + shape.key_width
    inputs = sum(shape.modules[name][0] for name in load.targets)
    queries_and_output, keys_and_values = 2 * shape.query_width, 2 * shape.key_width
    if load.unsloth:
        # Its kernels recompute what is cheap: a norm keeps its input as it came, the adapters of one input share it
        # (two normed inputs a block), and of the MLP only gate and up are kept.
        kept = normed + 2 * shape.hidden + queries_and_output + keys_and_values + 2 * shape.intermediate
        return unit * kept + (inputs if load.dropout > 0 else 0)  # of dropout a mask of one byte
    if load.compiled:
        # What is cheap is computed again: kept are the inputs of the products and of the norms, and the activated gate.
        kept = 2 * normed + queries_and_output + keys_and_values + 3 * shape.intermediate
        return unit * kept + (inputs if load.dropout > 0 else 0)
    if load.device == "cuda" and load.masked:
        # With a mask, transformers repeats keys and values for each query head, and torch keeps the mask as numbers.
        keys_and_values = 2 * shape.query_width
        mask = unit * (load.tokens if load.packed else load.length)
    else:
        mask = 0
    attention = unit * (queries_and_output + keys_and_values) + mask
    mlp = unit * 3 * shape.intermediate  # gate, activated gate, up
    norm = 4 * normed  # norms compute in 32 bits and keep that copy
    if load.dropout > 0:
        adapters = inputs * (unit + 1)  # each input thinned out, and a mask of one byte
    elif _adapter_bytes(load) != unit:
        adapters = inputs * unit  # each has its own copy: lifted to 32 bits for it, then lowered again
    else:
        adapters = unit * (2 * shape.hidden + shape.intermediate)  # shared with each other
    return attention + mlp + norm + adapters


def _activation_bytes(shape: Shape, load: Load) -> tuple[float, float]:
    """(saved for the backward pass of one micro-batch, needed besides while one block is at work)."""
    block = load.tokens * _block_bytes(shape, load)
    # Gradients within the MLP and its adapters, which transformers moves through 32 bits when the adapter has them.
    if load.unsloth:
        passing = load.unit * (shape.intermediate + 4 * shape.hidden)
    elif load.device == "cpu":
        passing = 0
    elif load.compiled:
        passing = 16 * shape.intermediate + 4 * load.unit * shape.hidden
    else:
        passing = (10 if _adapter_bytes(load) != load.unit else 6) * shape.intermediate + 4 * load.unit * shape.hidden
    passing *= load.tokens
    if not load.recompute:
        return shape.layers * block, passing
    one_input = load.tokens * shape.hidden * load.unit
    # Unsloth moves the blocks' inputs to the machine's memory and back, through two buffers.
    kept = 2 * one_input if load.unsloth else shape.layers * one_input
    return kept, block + passing


def logit_tokens(shape: Shape, load: Load) -> int:
    """Tokens whose scores are at hand at a time."""
    chunk = LOGIT_TOKENS
    if load.unsloth:
        chunk = min(4096, max(_power_of_two(load.tokens * shape.hidden / shape.vocabulary), 512))
        chunk = max(chunk, min(4096, _power_of_two(UNSLOTH_LOGITS / shape.vocabulary)))
    return min(chunk, load.tokens)


def _logit_bytes(shape: Shape, load: Load) -> float:
    """A chunk of scores: as computed, and their logarithms or gradient in 32 bits."""
    if load.pairs:  # besides, their exponentials, and those times the scores
        tokens, vocabulary = PAIR_LOGITS
        return min(tokens, load.tokens) * min(vocabulary, shape.vocabulary) * (load.unit + 12)
    return logit_tokens(shape, load) * shape.vocabulary * (load.unit + 4)


def _overhead_bytes(shape: Shape, load: Load, held: float, passing: float) -> float:
    if load.device == "cpu":
        # Interpreter, torch and the libraries around it; malloc keeps a third more than is in use, for its blocks are
        # of many lengths (seen with a 135M model in batches of 4 rows up to 457 tokens: 5.1 GiB in float32).
        return 0.9 * GIB + 0.35 * (held + passing)
    # Workspaces of cuBLAS, small tensors in segments of 2 MiB, and gaps between blocks; for 4-bit weights the largest
    # layer unpacked.
    largest = max(a * b for a, b in shape.modules.values())
    return 0.2 * GIB + 0.01 * passing + (2 * largest if load.method == "qlora" else 0)


def _power_of_two(value: float) -> int:
    """The largest one not above `value`, at least 1."""
    return 1 << max(0, int(value).bit_length() - 1)
