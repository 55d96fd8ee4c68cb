"""Base models that are known without asking anybody, with the numbers a plan needs.

Shapes are those of the models' own config.json; `count_parameters` computes the
size from them, and a test holds it against the published size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

CHINESE = "zh"
MOSTLY = 0.3  # share of rows from which data counts as written in a language


@dataclass(frozen=True)
class KnownBase:
    """A base model.

    Attributes:
        model_id: Hub id, or embedded.
        family: the makers' name for the series.
        model_type: as config.json has it; the architecture.
        template: family of its chat template.
        parameters_b: billions, embeddings counted once if tied.
        hidden, layers, heads, kv_heads, head, intermediate, vocabulary: elements.
        tied: input embedding and output head are one matrix.
        context: tokens.
        licence: SPDX name where there is one, else the makers' name for it.
        languages: it was trained for, as codes; en and zh first.
    """

    model_id: str
    family: str
    model_type: str
    template: str
    parameters_b: float
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head: int
    intermediate: int
    vocabulary: int
    tied: bool
    context: int
    licence: str
    languages: tuple[str, ...]

    def config(self) -> dict[str, Any]:
        """The part of its config.json on which memory and length depend."""
        return {
            "model_type": self.model_type,
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head,
            "intermediate_size": self.intermediate,
            "vocab_size": self.vocabulary,
            "tie_word_embeddings": self.tied,
            "max_position_embeddings": self.context,
        }

    def count_parameters(self) -> int:
        """Weights of the matrices: embeddings, attention, gated MLP. Norms and biases (under 0.1 %) aside."""
        attention = self.hidden * self.head * (2 * self.heads + 2 * self.kv_heads)
        mlp = 3 * self.hidden * self.intermediate
        embeddings = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return embeddings + self.layers * (attention + mlp)


_QWEN = ("zh", "en", "fr", "es", "pt", "de", "it", "ru", "ja", "ko", "vi", "th", "ar")
_LLAMA = ("en", "de", "fr", "it", "pt", "hi", "es", "th")


def _qwen2(
    size: str, parameters: float, shape: tuple[int, ...], *, tied: bool, licence: str = "Apache-2.0"
) -> KnownBase:
    hidden, layers, heads, kv_heads, intermediate, vocabulary = shape
    return KnownBase(
        f"Qwen/Qwen2.5-{size}-Instruct", "Qwen2.5", "qwen2", "chatml", parameters, hidden, layers, heads, kv_heads,
        hidden // heads, intermediate, vocabulary, tied, 32768, licence, _QWEN,
    )  # fmt: skip


def _qwen3(size: str, parameters: float, shape: tuple[int, ...], *, tied: bool) -> KnownBase:
    hidden, layers, heads, kv_heads, intermediate = shape
    return KnownBase(
        f"Qwen/Qwen3-{size}", "Qwen3", "qwen3", "chatml", parameters, hidden, layers, heads, kv_heads,
        128, intermediate, 151936, tied, 40960, "Apache-2.0", _QWEN,
    )  # fmt: skip


def _smollm2(model_id: str, parameters: float, shape: tuple[int, ...]) -> KnownBase:
    hidden, layers, heads, kv_heads, intermediate = shape
    return KnownBase(
        model_id, "SmolLM2", "llama", "chatml", parameters, hidden, layers, heads, kv_heads,
        64, intermediate, 49152, True, 8192, "Apache-2.0", ("en",),
    )  # fmt: skip


def _llama(
    name: str, parameters: float, shape: tuple[int, ...], *, head: int, tied: bool, licence: str, context: int = 131072
) -> KnownBase:
    hidden, layers, heads, kv_heads, intermediate = shape
    return KnownBase(
        f"meta-llama/{name}", "Llama 3", "llama", "llama3", parameters, hidden, layers, heads, kv_heads,
        head, intermediate, 128256, tied, context, licence, _LLAMA,
    )  # fmt: skip


BASES: tuple[KnownBase, ...] = (
    _smollm2("embedded", 0.135, (576, 30, 9, 3, 1536)),
    _smollm2("HuggingFaceTB/SmolLM2-135M-Instruct", 0.135, (576, 30, 9, 3, 1536)),
    _smollm2("HuggingFaceTB/SmolLM2-360M-Instruct", 0.362, (960, 32, 15, 5, 2560)),
    _smollm2("HuggingFaceTB/SmolLM2-1.7B-Instruct", 1.711, (2048, 24, 32, 32, 8192)),
    _qwen2("0.5B", 0.494, (896, 24, 14, 2, 4864, 151936), tied=True),
    _qwen2("1.5B", 1.544, (1536, 28, 12, 2, 8960, 151936), tied=True),
    _qwen2("3B", 3.086, (2048, 36, 16, 2, 11008, 151936), tied=True, licence="Qwen research licence"),
    _qwen2("7B", 7.616, (3584, 28, 28, 4, 18944, 152064), tied=False),
    _qwen2("14B", 14.770, (5120, 48, 40, 8, 13824, 152064), tied=False),
    _qwen2("32B", 32.764, (5120, 64, 40, 8, 27648, 152064), tied=False),
    _qwen3("0.6B", 0.596, (1024, 28, 16, 8, 3072), tied=True),
    _qwen3("1.7B", 1.721, (2048, 28, 16, 8, 6144), tied=True),
    _qwen3("4B", 4.022, (2560, 36, 32, 8, 9728), tied=True),
    _qwen3("8B", 8.191, (4096, 36, 32, 8, 12288), tied=False),
    _qwen3("14B", 14.768, (5120, 40, 40, 8, 17408), tied=False),
    _qwen3("32B", 32.762, (5120, 64, 64, 8, 25600), tied=False),
    _llama("Llama-3.2-1B-Instruct", 1.236, (2048, 16, 32, 8, 8192), head=64, tied=True, licence="Llama 3.2 licence"),
    _llama("Llama-3.2-3B-Instruct", 3.213, (3072, 28, 24, 8, 8192), head=128, tied=True, licence="Llama 3.2 licence"),
    _llama("Llama-3.1-8B-Instruct", 8.030, (4096, 32, 32, 8, 14336), head=128, tied=False, licence="Llama 3.1 licence"),
    _llama("Llama-3.3-70B-Instruct", 70.554, (8192, 80, 64, 8, 28672), head=128, tied=False,
           licence="Llama 3.3 licence"),
    KnownBase("mistralai/Mistral-7B-Instruct-v0.3", "Mistral", "mistral", "mistral", 7.248, 4096, 32, 32, 8, 128, 14336,
              32768, False, 32768, "Apache-2.0", ("en",)),
    KnownBase("google/gemma-3-270m-it", "Gemma 3", "gemma3_text", "gemma", 0.268, 640, 18, 4, 1, 256, 2048,
              262144, True, 32768, "Gemma terms of use", ("en",)),
    KnownBase("google/gemma-3-1b-it", "Gemma 3", "gemma3_text", "gemma", 1.000, 1152, 26, 4, 1, 256, 6912,
              262144, True, 32768, "Gemma terms of use", ("en",)),
    KnownBase("microsoft/Phi-3-mini-4k-instruct", "Phi", "phi3", "phi", 3.821, 3072, 32, 32, 32, 96, 8192,
              32064, False, 4096, "MIT", ("en",)),
    KnownBase("microsoft/Phi-4-mini-instruct", "Phi", "phi3", "phi", 3.836, 3072, 32, 24, 8, 128, 8192,
              200064, True, 131072, "MIT", ("en", "zh", "fr", "es", "pt", "de", "it", "ru", "ja", "ko", "th", "ar")),
    KnownBase("microsoft/phi-4", "Phi", "phi3", "phi", 14.660, 5120, 40, 40, 10, 128, 17920,
              100352, False, 16384, "MIT", ("en",)),
)  # fmt: skip

# What is chosen on a CUDA card: the largest whose 4-bit training fits with room to spare. Budget in GiB.
_BY_BUDGET = (
    (13.0, "Qwen/Qwen2.5-7B-Instruct", ""),
    (7.0, "Qwen/Qwen2.5-3B-Instruct", " Its licence allows research use only; 1.5B and 7B are free."),
    (5.0, "Qwen/Qwen2.5-1.5B-Instruct", ""),
    (3.0, "Qwen/Qwen2.5-0.5B-Instruct", ""),
)


def find(model_id: str) -> KnownBase | None:
    """The known base of that id, capitals aside; None if it is not in the list."""
    wanted = model_id.lower()
    return next((base for base in BASES if base.model_id.lower() == wanted), None)


def choose_base(languages: Mapping[str, int], budget_gib: float | None, cuda: bool) -> tuple[str, str]:
    """The base model for "auto", with the reason.

    Args:
        languages: rows by language code, as a dataset has them.
        budget_gib: memory that training may take; None: not known.
        cuda: whether there is a CUDA card to train on.
    """
    chinese = share_of(languages, CHINESE)
    if not cuda:
        reason = "Without a CUDA card only the embedded 135M model trains in minutes."
        return "embedded", reason + (english_only_warning(chinese) if chinese >= MOSTLY else "")
    if budget_gib is None:
        return (
            "Qwen/Qwen2.5-1.5B-Instruct",
            "The card's memory is not known; 1.5B in 4-bit fits almost any." + _why_qwen(chinese),
        )
    for needed, model_id, note in _BY_BUDGET:
        if budget_gib >= needed:
            size = model_id.removeprefix("Qwen/Qwen2.5-").removesuffix("-Instruct")
            reason = f"{size} is the largest of its series that trains comfortably in {budget_gib:.1f} GiB."
            return model_id, reason + note + _why_qwen(chinese)
    reason = f"{budget_gib:.1f} GiB hold only the embedded 135M model."
    return "embedded", reason + (english_only_warning(chinese) if chinese >= MOSTLY else "")


def share_of(languages: Mapping[str, int], code: str) -> float:
    """The share of rows in a language, 0 to 1; 0 when there are none."""
    total = sum(languages.values())
    return languages.get(code, 0) / total if total else 0.0


def english_only_warning(chinese: float) -> str:
    """What to say when data that is partly Chinese meets the embedded model."""
    return (
        f" Warning: {chinese:.0%} of the rows are Chinese, and the embedded SmolLM2 knows English only: expect the "
        "pipeline to work and the answers to be poor. Use a Qwen model on a machine with a GPU for real results."
    )


def _why_qwen(chinese: float) -> str:
    if chinese >= MOSTLY:
        return f" {chinese:.0%} of the rows are Chinese, which Qwen was trained for."
    return ""
