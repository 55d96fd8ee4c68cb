"""Base models that are known without asking anybody, with the numbers a plan needs.

Shapes are those of the models' own config.json; `count_parameters` computes the
size from them, and a test holds it against the published size.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Any

RESEARCH_ONLY = "Qwen research licence"  # the one here that forbids commercial use


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
        languages: its makers name, as codes.
        gated: whether its makers must grant access on the Hub first; False where that is not known for sure.
        sees: weights in billions, of parts that look at pictures, which training text leaves alone.
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
    gated: bool = False
    sees: float = 0.0

    @property
    def download_gb(self) -> float:
        """Size of its 16-bit weights, in 10⁹ bytes: what fetching it costs."""
        return round((self.parameters_b + self.sees) * 2, 1)

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


# As their makers' cards name them; "and many more" is left out.
_QWEN = ("zh", "en", "fr", "es", "pt", "de", "it", "ru", "ja", "ko", "vi", "th", "ar")
_LLAMA = ("en", "de", "fr", "it", "pt", "hi", "es", "th")
_NEMO = ("en", "fr", "de", "es", "it", "pt", "ru", "zh", "ja")
_MISTRAL_SMALL = ("en", "fr", "de", "es", "it", "pt", "zh", "ja", "ru", "ko")
_GEMMA = ("en", "zh", "fr", "es", "pt", "de", "it", "ru", "ja", "ko", "vi", "th", "ar", "hi")
_PHI_MINI = ("en", "ar", "zh", "cs", "da", "nl", "fi", "fr", "de", "he", "hu", "it", "ja", "ko", "no", "pl", "pt",
             "ru", "es", "sv", "th", "tr", "uk")  # fmt: skip


def _qwen2(
    size: str, parameters: float, shape: tuple[int, ...], *, tied: bool, licence: str = "Apache-2.0"
) -> KnownBase:
    hidden, layers, heads, kv_heads, intermediate, vocabulary = shape
    return KnownBase(
        f"Qwen/Qwen2.5-{size}-Instruct", "Qwen2.5", "qwen2", "chatml", parameters, hidden, layers, heads, kv_heads,
        hidden // heads, intermediate, vocabulary, tied, 32768, licence, _QWEN,
    )  # fmt: skip


def _qwen3(size: str, parameters: float, shape: tuple[int, ...], *, tied: bool, context: int = 40960) -> KnownBase:
    hidden, layers, heads, kv_heads, intermediate = shape
    return KnownBase(
        f"Qwen/Qwen3-{size}", "Qwen3", "qwen3", "chatml", parameters, hidden, layers, heads, kv_heads,
        128, intermediate, 151936, tied, context, "Apache-2.0", _QWEN,
    )  # fmt: skip


def _smollm2(model_id: str, parameters: float, shape: tuple[int, ...]) -> KnownBase:
    hidden, layers, heads, kv_heads, intermediate = shape
    return KnownBase(
        model_id, "SmolLM2", "llama", "chatml", parameters, hidden, layers, heads, kv_heads,
        64, intermediate, 49152, True, 8192, "Apache-2.0", ("en",),
    )  # fmt: skip


def _llama(version: str, size: str, parameters: float, shape: tuple[int, ...], *, head: int, tied: bool) -> KnownBase:
    hidden, layers, heads, kv_heads, intermediate = shape
    return KnownBase(
        f"meta-llama/Llama-{version}-{size}-Instruct", "Llama 3", "llama", "llama3", parameters, hidden, layers, heads,
        kv_heads, head, intermediate, 128256, tied, 131072, f"Llama {version} licence", _LLAMA, gated=True,
    )  # fmt: skip


def _mistral(
    name: str, parameters: float, shape: tuple[int, ...], context: int, languages: tuple[str, ...]
) -> KnownBase:
    hidden, layers, intermediate, vocabulary = shape
    return KnownBase(
        f"mistralai/{name}", "Mistral", "mistral", "mistral", parameters, hidden, layers, 32, 8,
        128, intermediate, vocabulary, False, context, "Apache-2.0", languages,
    )  # fmt: skip


def _gemma3(size: str, parameters: float, shape: tuple[int, ...], *, sees: float = 0.0) -> KnownBase:
    hidden, layers, heads, kv_heads, head, intermediate = shape
    # The embeddings of those that see have room for the tokens of pictures.
    vocabulary, context = (262208, 131072) if sees else (262144, 32768)
    return KnownBase(
        f"google/gemma-3-{size}-it", "Gemma 3", "gemma3_text", "gemma", parameters, hidden, layers, heads, kv_heads,
        head, intermediate, vocabulary, True, context, "Gemma terms of use", _GEMMA if sees else ("en",),
        gated=True, sees=sees,
    )  # fmt: skip


def _phi(
    name: str, parameters: float, shape: tuple[int, ...], *, head: int, tied: bool, context: int,
    languages: tuple[str, ...] = ("en",),
) -> KnownBase:  # fmt: skip
    hidden, layers, heads, kv_heads, intermediate, vocabulary = shape
    return KnownBase(
        f"microsoft/{name}", "Phi", "phi3", "phi", parameters, hidden, layers, heads, kv_heads,
        head, intermediate, vocabulary, tied, context, "MIT", languages,
    )  # fmt: skip


BASES: tuple[KnownBase, ...] = (
    _smollm2("embedded", 0.135, (576, 30, 9, 3, 1536)),
    _smollm2("HuggingFaceTB/SmolLM2-135M-Instruct", 0.135, (576, 30, 9, 3, 1536)),
    _smollm2("HuggingFaceTB/SmolLM2-360M-Instruct", 0.362, (960, 32, 15, 5, 2560)),
    _smollm2("HuggingFaceTB/SmolLM2-1.7B-Instruct", 1.711, (2048, 24, 32, 32, 8192)),
    KnownBase("HuggingFaceTB/SmolLM3-3B", "SmolLM3", "smollm3", "chatml", 3.075, 2048, 36, 16, 4,
              128, 11008, 128256, True, 65536, "Apache-2.0", ("en", "fr", "es", "de", "it", "pt")),
    _qwen2("0.5B", 0.494, (896, 24, 14, 2, 4864, 151936), tied=True),
    _qwen2("1.5B", 1.544, (1536, 28, 12, 2, 8960, 151936), tied=True),
    _qwen2("3B", 3.086, (2048, 36, 16, 2, 11008, 151936), tied=True, licence=RESEARCH_ONLY),
    _qwen2("7B", 7.616, (3584, 28, 28, 4, 18944, 152064), tied=False),
    _qwen2("14B", 14.770, (5120, 48, 40, 8, 13824, 152064), tied=False),
    _qwen2("32B", 32.764, (5120, 64, 40, 8, 27648, 152064), tied=False),
    _qwen2("72B", 72.706, (8192, 80, 64, 8, 29568, 152064), tied=False, licence="Qwen licence"),
    _qwen3("0.6B", 0.596, (1024, 28, 16, 8, 3072), tied=True),
    _qwen3("1.7B", 1.721, (2048, 28, 16, 8, 6144), tied=True),
    _qwen3("4B", 4.022, (2560, 36, 32, 8, 9728), tied=True),
    _qwen3("4B-Instruct-2507", 4.022, (2560, 36, 32, 8, 9728), tied=True, context=262144),
    _qwen3("8B", 8.191, (4096, 36, 32, 8, 12288), tied=False),
    _qwen3("14B", 14.768, (5120, 40, 40, 8, 17408), tied=False),
    _qwen3("32B", 32.762, (5120, 64, 64, 8, 25600), tied=False),
    _llama("3.2", "1B", 1.236, (2048, 16, 32, 8, 8192), head=64, tied=True),
    _llama("3.2", "3B", 3.213, (3072, 28, 24, 8, 8192), head=128, tied=True),
    _llama("3.1", "8B", 8.030, (4096, 32, 32, 8, 14336), head=128, tied=False),
    _llama("3.3", "70B", 70.554, (8192, 80, 64, 8, 28672), head=128, tied=False),
    _mistral("Mistral-7B-Instruct-v0.3", 7.248, (4096, 32, 14336, 32768), 32768, ("en",)),
    _mistral("Mistral-Nemo-Instruct-2407", 12.248, (5120, 40, 14336, 131072), 131072, _NEMO),
    _mistral("Mistral-Small-24B-Instruct-2501", 23.572, (5120, 40, 32768, 131072), 32768, _MISTRAL_SMALL),
    _gemma3("270m", 0.268, (640, 18, 4, 1, 256, 2048)),
    _gemma3("1b", 1.000, (1152, 26, 4, 1, 256, 6912)),
    _gemma3("4b", 3.880, (2560, 34, 8, 4, 256, 10240), sees=0.42),
    _gemma3("12b", 11.766, (3840, 48, 16, 8, 256, 15360), sees=0.42),
    _gemma3("27b", 27.009, (5376, 62, 32, 16, 128, 21504), sees=0.42),
    _phi("Phi-3.5-mini-instruct", 3.821, (3072, 32, 32, 32, 8192, 32064), head=96, tied=False, context=131072,
         languages=_PHI_MINI),
    _phi("Phi-3-mini-4k-instruct", 3.821, (3072, 32, 32, 32, 8192, 32064), head=96, tied=False, context=4096),
    _phi("Phi-4-mini-instruct", 3.836, (3072, 32, 24, 8, 8192, 200064), head=128, tied=True, context=131072,
         languages=_PHI_MINI),
    _phi("phi-4", 14.660, (5120, 40, 40, 10, 17920, 100352), head=128, tied=False, context=16384),
)  # fmt: skip


def find(model_id: str) -> KnownBase | None:
    """The known base of that id, capitals aside; None if it is not in the list."""
    wanted = model_id.lower()
    return next((base for base in BASES if base.model_id.lower() == wanted), None)


def suggest(name: str) -> str | None:
    """The known base that somebody means who writes a name otherwise, such as qwen2.5:7b or Llama 3.2 3B."""
    wanted = _bare(name)
    by_name = {_bare(base.model_id): base.model_id for base in BASES}
    near = difflib.get_close_matches(wanted, by_name, n=1, cutoff=0.8)
    return by_name[near[0]] if near else None


def _bare(name: str) -> str:
    """A name without its maker, its "Instruct" and its signs."""
    tail = name.rpartition("/")[2].lower()
    return re.sub(r"[^a-z0-9.]|instruct|-it$", "", tail)
