"""What an export and a registration leave behind."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from tunesmith.records import Record


class Divergence(Record):
    """How far a candidate's next-token distributions are from a reference's, over the same positions."""

    mean_kld: float = Field(description="Mean Kullback-Leibler divergence, reference to candidate, in nats.")
    p99_kld: float = Field(description="Its 99th percentile over the positions, in nats.")
    same_top_token: float = Field(description="Share of positions whose most likely token is the same, 0 to 1.")
    perplexity_ratio: float = Field(description="Perplexity of the candidate over that of the reference; 1 is equal.")
    positions: int = Field(description="Positions compared: each predicts one token of an answer.")


class ExportedFile(Record):
    """One GGUF file. The quality figures are null when verify was false, and for an adapter."""

    quantization: str = Field(description="q4_k_m, q8_0, f16, …")
    path: str = Field(description="Absolute path of the file.")
    bytes: int = Field(description="Size in bytes.")
    sha256: str = Field(description="SHA-256 of the file.")
    mean_kld: float | None = Field(description="Mean KL divergence from the 16/32-bit merged weights, in nats.")
    p99_kld: float | None = Field(description="99th percentile of that divergence, in nats.")
    same_top_token: float | None = Field(description="Share of positions with the same most likely token, 0 to 1.")
    perplexity_ratio: float | None = Field(description="Perplexity over that of the merged weights; 1 is equal.")
    adapter_kept: float | None = Field(
        default=None,
        description="Share of the adapter's change that this file still holds, 1 = all. Null for 16 bits, where "
        "nothing was merged, and where it cannot be told to 0.05.",
    )
    importance: MatrixTrial | None = Field(
        default=None, description="Null where no importance matrix was tried: above 6 bits, or not verified."
    )


class MatrixTrial(Record):
    """A file quantised with and without an importance matrix from the training rows; the better one was kept."""

    used: bool = Field(description="True: the file was made with it.")
    kld_with: float = Field(description="Mean KL divergence with the matrix over a third of the rows, in nats.")
    kld_without: float = Field(description="And without, over the same rows.")
    tokens: int = Field(description="Tokens of training rows that the matrix was collected from.")


class StopRate(Record):
    """Held-out questions asked of the coarsest file, greedily, in the trained prompt."""

    quantization: str = Field(description="The file that was asked.")
    asked: int = Field(description="Questions answered.")
    stopped: int = Field(description="Answers that ended by themselves.")
    repeated: int = Field(default=0, description="Answers ended because they said one passage again and again.")
    rate: float = Field(description="stopped / asked.")
    limit_tokens: int = Field(description="Tokens an answer was given: twice the longest trained one, at most 512.")


class VerifiedOn(Record):
    """The texts on which the quality figures were measured."""

    split: Literal["eval", "dataset", "builtin"] = Field(
        description="eval: the dataset's held-out rows; dataset: it has no eval split, so rows of all of it; "
        "builtin: there is no dataset, so dialogues of our own."
    )
    rows: int = Field(description="Rows used.")
    tokens: int = Field(description="Tokens read.")
    positions: int = Field(description="Positions compared: each predicts one token of an answer.")


class ExportResult(Record):
    """What export_gguf made."""

    model_id: str = Field(description="mdl_ and 12 characters.")
    files: list[ExportedFile] = Field(description="The GGUF files, in the order asked for.")
    merge_kld: float | None = Field(
        description="Mean KL divergence of the merged weights from base plus adapter, in nats; null when not merged "
        "or not verified."
    )
    trained_kld: float | None = Field(
        default=None,
        description="Mean KL divergence of 16-bit base plus adapter from what was trained, the 4-bit base plus "
        "adapter, in nats. Null unless trained with qlora, and where 4-bit weights cannot be computed.",
    )
    stop_rate: StopRate | None = Field(
        default=None, description="Null when not verified, and where this machine is too slow to see an answer end."
    )
    tokenizer_parity: bool | None = Field(
        description="True: the GGUF tokenises every text as the Hugging Face tokenizer does. Null for an adapter, "
        "which carries no tokenizer. A difference fails the export."
    )
    tokenizer_texts: int = Field(description="Texts on which the tokenizers were compared.")
    prompt_format_sha256: str = Field(description="SHA-256 of the prompt format the model was trained on.")
    verified_on: VerifiedOn | None = Field(description="Null when verify was false, and for an adapter.")
    modelfile: str | None = Field(description="Absolute path of the Modelfile; null when none was written.")
    card: str = Field(description="Absolute path of the model card.")
    llama_cpp: str = Field(description="Where converter and quantiser came from: LLAMA_CPP_DIR, PATH, packages.")
    notes: list[str] = Field(default_factory=list, description="What was left out, and why.")


class FirstDifference(Record):
    """Where two renderings of one dialogue part."""

    dialogue: int = Field(description="Number of the dialogue, from 1.")
    byte: int = Field(description="Offset of the first differing byte, from 0, in UTF-8.")
    expected: str = Field(description="What the prompt format gives around there.")
    got: str = Field(description="What Ollama gives around there.")


class RenderParity(Record):
    """Ollama's rendering of dialogues against the prompt format's, byte by byte."""

    dialogues: int = Field(description="Dialogues compared; 0 when this server cannot show its rendering.")
    identical: int = Field(description="Dialogues whose rendering is the same to the byte.")
    first_difference: FirstDifference | None = Field(description="Null when there is none.")
    reason: str | None = Field(default=None, description="Why nothing was compared; null when it was.")


class Smoke(Record):
    """One short chat with the new model."""

    prompt: str
    reply: str = Field(description="At most 2,000 characters of it.")
    stopped: bool = Field(description="It ended by itself, not at the token limit.")


class RegisterResult(Record):
    """What register_ollama made."""

    name: str = Field(description="The name in Ollama, with its tag.")
    digest: str = Field(description="Ollama's digest of the model.")
    modelfile: str = Field(description="Absolute path of a Modelfile that makes the same model by hand.")
    parity: RenderParity
    smoke: Smoke
    command: str = Field(description="The command that starts a chat with it.")
    ollama: str = Field(description="Version of the server.")
    host: str = Field(description="Its address.")
    parameters: dict[str, Any] = Field(description="The parameters the model was created with, stops included.")
    uploaded: bool = Field(description="False: the server had every file already.")
    base: str | None = Field(
        default=None, description="What an adapter was put on: a model in Ollama, or a GGUF's path. Null: merged."
    )
    notes: list[str] = Field(default_factory=list, description="What else was done or is to be known.")
