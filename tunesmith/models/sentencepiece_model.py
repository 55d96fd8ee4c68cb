"""A tokenizer.json made from a tokenizer.model, for bases that have only that.

SentencePiece stores pieces with scores; the tokenizers library wants the merges
in order. Every way in which a piece is two others is a merge, of the piece's
rank. What was made is held against SentencePiece itself before it is used.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.errors import BadInput, MissingExtra, NotSupported

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPACE = "▁"
MODEL_FILE = "tokenizer.model"
_FILES = (MODEL_FILE, "tokenizer_config.json", "added_tokens.json")
# Where a wrong reading would show: blanks, digits, bytes without a piece, characters beyond the basic plane.
_PROBES = (
    "Hello, world!", " a  b   c ", "x\n\n\ty\r\n", "1234567890 3.14", "你好，世界！今天天气怎么样？",
    "naïve e\u0301 Straße", "🙂👍🏽 𠜎 \u200b", "def f(x):\n    return {x: [1, 2]}\n", "aaaaaaaaaaaa bbbb", SPACE,
)  # fmt: skip


def tokenizer_from_model(folder: Path) -> Tokenizer:
    """The tokenizer in the tokenizer.model of `folder`, ready to encode.

    Raises:
        MissingExtra: sentencepiece or tokenizers is not installed.
        BadInput: it is no SentencePiece model.
        NotSupported: it splits text in a way that is not rebuilt here (unigram models).
    """
    stamps = tuple((folder / name).stat().st_mtime_ns if (folder / name).is_file() else 0 for name in _FILES)
    return _made(folder, stamps)


@lru_cache(maxsize=2)
def _made(folder: Path, _stamps: tuple[int, ...]) -> Tokenizer:
    try:
        from sentencepiece import SentencePieceProcessor
        from tokenizers import Tokenizer
    except ModuleNotFoundError as error:
        name = error.name or "sentencepiece"
        raise MissingExtra(name, extra="embedded", purpose="read a tokenizer.model") from error
    try:
        model = SentencePieceProcessor(model_file=str(folder / MODEL_FILE))
    except (OSError, RuntimeError) as error:
        raise BadInput(
            f"{folder / MODEL_FILE} is no SentencePiece model: {str(error)[:200]}", next="Fetch the model again."
        ) from error
    config = _read(folder / "tokenizer_config.json")
    tokenizer = Tokenizer.from_str(json.dumps(_description(model, config, _read(folder / "added_tokens.json"))))
    for text in _PROBES:
        if tokenizer.encode(text, add_special_tokens=False).ids != model.encode(text):
            raise NotSupported(
                f"The tokenizer.model in {folder} splits text in a way that cannot be rebuilt here.",
                next="Load its tokenizer once with transformers and save it into the folder as tokenizer.json, "
                "or choose another base.",
            )
    return tokenizer


def _description(model: Any, config: dict[str, Any], added: dict[str, Any]) -> dict[str, Any]:
    """What a tokenizer.json says."""
    pieces = [model.id_to_piece(number) for number in range(model.vocab_size())]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    prefix = bool(model.encode("a", out_type=str)[0].startswith(SPACE)) and config.get("add_prefix_space") is not False
    blanks = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    # Before each stretch between special tokens, as llama.cpp does it for such a model.
    prepend = [{"type": "Prepend", "prepend": SPACE}] if prefix else []
    decoders: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if prefix:
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {
        "version": "1.0",
        "added_tokens": _added_tokens(model, pieces, config, added),
        "normalizer": {"type": "Sequence", "normalizers": [*prepend, blanks]},
        "pre_tokenizer": None,
        "post_processor": _first_token(model, config),
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {
            "type": "BPE",
            "unk_token": pieces[model.unk_id()],
            "fuse_unk": True,
            "byte_fallback": any(model.is_byte(number) for number in range(len(pieces))),
            "vocab": vocabulary,
            "merges": _merges(model, pieces, vocabulary),
        },
    }


def _merges(model: Any, pieces: list[str], vocabulary: dict[str, int]) -> list[list[str]]:
    found: list[tuple[float, int, int, str, str]] = []
    for number, piece in enumerate(pieces):
        special = model.is_control(number) or model.is_unknown(number) or model.is_unused(number)
        if special or model.is_byte(number):
            continue
        for cut in range(1, len(piece)):
            left, right = vocabulary.get(piece[:cut]), vocabulary.get(piece[cut:])
            if left is not None and right is not None:
                found.append((-model.get_score(number), left, right, piece[:cut], piece[cut:]))
    return [[left, right] for _, _, _, left, right in sorted(found)]


def _added_tokens(model: Any, pieces: list[str], config: dict[str, Any], added: dict[str, Any]) -> list[dict[str, Any]]:
    """What is found in a text before it is split: control pieces, user-defined ones, and what was added later."""
    tokens: dict[int, dict[str, Any]] = {}
    for number, piece in enumerate(pieces):
        special = model.is_control(number) or model.is_unknown(number)
        # A user-defined piece is neither; its score is the highest there is, and no text is merged to it.
        defined = not special and not model.is_byte(number) and len(piece) > 1 and model.get_score(number) == 0
        if special or (defined and number != _first_merged(model, pieces)):
            # One with blanks in it is found once blanks have become the sign for them.
            tokens[number] = _token(number, piece, special=special, normalized=SPACE in piece)
    for content, number in added.items():
        tokens[int(number)] = _token(int(number), content, special=True)
    for number, entry in config.get("added_tokens_decoder", {}).items():
        tokens[int(number)] = {**_token(int(number), "", special=False), **entry, "id": int(number)}
    fields = ("id", "content", "single_word", "lstrip", "rstrip", "normalized", "special")
    return [{field: tokens[number][field] for field in fields} for number in sorted(tokens)]


def _first_merged(model: Any, pieces: list[str]) -> int:
    """The first piece that training made: its score is 0 as well, the next one's -1."""
    scores = [model.get_score(number) for number in range(len(pieces))]
    second = next((number for number, score in enumerate(scores) if score == -1), 0)
    return second - 1


def _token(number: int, content: str, *, special: bool, normalized: bool = False) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": normalized, "special": special}
    return {"id": number, "content": content, **flags}


def _first_token(model: Any, config: dict[str, Any]) -> dict[str, Any] | None:
    """Puts BOS before every text, as these tokenizers do unless they are told not to."""
    if config.get("add_bos_token") is False or model.bos_id() < 0:
        return None
    bos = model.id_to_piece(model.bos_id())
    first = {"SpecialToken": {"id": bos, "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [first, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [first, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {bos: {"id": bos, "ids": [model.bos_id()], "tokens": [bos]}},
    }


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
