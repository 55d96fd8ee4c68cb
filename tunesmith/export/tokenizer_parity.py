"""Proof that a GGUF splits text exactly as the model's own tokenizer does.

A converted model whose tokenizer differs still answers, only worse: the weights
then see token sequences they were never trained on. Nothing else notices.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from tunesmith.errors import CheckFailed
from tunesmith.export.child import ChildFailed
from tunesmith.export.llama_job import run_job

# Each text is where some tokenizer was once wrong: digits, runs of blanks, scripts without spaces, characters
# beyond the basic plane, combining marks, code, and text that spells a special token.
TEXTS = (
    "Hello, world!",
    " leading and trailing ",
    "  two  spaces   three    four\n\n\nthree breaks\t\ttabs\r\nand a carriage return",
    "\n",
    "   ",
    "I'll say it's they've WE'RE don't",
    "a  3   12    x  7\n\n\n9\t\t5  ,  .5",
    "1234567890 12 345 6789 3.14159 1,000,000 0x1F 2026-11-24 ½ ² Ⅷ",
    "你好，世界！今天天气怎么样？我们去公园散步吧。",
    "这个型号的参数是：电压220V，功率1500W，重量3.5kg。",
    "「全角」，。！？；：【】《》——……　全角空格　１２３ＡＢＣ",
    "繁體中文與简体中文混排，夹杂 English words 和 12345。",
    "日本語のテキスト。カタカナ、ひらがな、漢字。",
    "한국어 문장입니다. 안녕하세요!",
    "Ünïcödé naïve façade Straße Ærøskøbing e\u0301 n\u0303 a\u0308",
    "Привет, мир! Ελληνικά עברית العربية हिन्दी ไทย",
    "🙂 👍🏽 👩\u200d👩\u200d👧\u200d👦 🇩🇪 🏳️\u200d🌈 ✨",
    "𝕌𝕟𝕚𝕔𝕠𝕕𝕖 𠜎𠜱 beyond the basic plane",
    "zero\u200bwidth\u200cjoin\u200der \u00a0no-break\u2028line\u2029paragraph \ufeffbom",
    "def f(x: int) -> str:\n    return f\"{x!r:>10}\"  # comment\n\n\nclass A:\n\tpass\n",
    "for (int i = 0; i < n; ++i) { a[i] += b[i] * 0.5f; } /* end */",
    "SELECT * FROM t WHERE a >= 10 AND b LIKE '%x_%';\\n\\t\\\\",
    "https://example.org/a/b?c=d&e=f#g user@example.org C:\\path\\to\\file.txt",
    "!!!???...,,,;;;:::---___===+++***///\\\\\\|||<<<>>>(((",
    "CamelCase snake_case kebab-case SCREAMING_CASE mixedCASE123abc",
    "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n",
    "<|endoftext|> <|im_end|><|im_end|> text<|endoftext|>text <|im_start|>",
    "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>",
    "<s>[INST] hi [/INST]</s> <bos><start_of_turn>user\nhi<end_of_turn> <|user|> <|end|> <unk> <pad>",
    "<|im_start <|im_end |> < |im_end|> <|IM_END|>",
    "### Instruction:\nDo it.\n\n### Response:\nDone.\n",
    "| a | b |\n|---|---|\n| 1 | 2 |\n\n- item\n  - nested\n\n> quote\n\n```py\nx\n```",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa " * 3,
)  # fmt: skip


def check_tokenizer(
    gguf: Path, tokenizer_file: Path, *, extra: Sequence[str], end: str, check: Callable[[], None], first: str = ""
) -> int:
    """Compare the tokenizer inside a GGUF with the model's own. Returns the number of texts compared.

    Args:
        tokenizer_file: the model's tokenizer.json.
        extra: further texts, such as the conversations the model was trained on.
        end: the token that ends an answer; the GGUF must know that it does.
        first: the token that every prompt begins with; some tokenizers treat a text otherwise that does not.

    Raises:
        CheckFailed: shows the first text that is split differently, or says that `end` would not stop an answer.
    """
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(str(tokenizer_file))
    texts = [*(first + text for text in TEXTS), *extra]
    form = _composes(tokenizer_file)
    if form is not None:
        # Qwen's tokenizers compose characters, llama.cpp does not. Nearly all text is composed; of other text llama.cpp
        # makes other tokens, which no export can mend.
        texts = [unicodedata.normalize(form, text) for text in texts]
    expected = [encoding.ids for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)]
    try:
        answer = run_job("tokenise", {"model": str(gguf), "texts": texts, "ends": [end]}, check=check)
    except ChildFailed as failure:
        raise CheckFailed(
            f"The tokenizer inside the GGUF cannot be used: llama.cpp {failure.how}. It said:\n{failure.tail}",
            next="The base's tokenizer files are not what the converter expects; "
            "train on a base whose tokenizer is unchanged.",
        ) from failure
    for text, ours, theirs in zip(texts, expected, answer["ids"], strict=True):
        if ours != theirs:
            raise _different(text, ours, theirs)
    if not answer["ends"][end]:
        raise CheckFailed(
            f"The GGUF does not treat {end!r} as the end of an answer, so a runtime would not stop there.",
            next="Train with a prompt format whose end token is one of the base's special tokens.",
        )
    return len(texts)


def _composes(tokenizer_file: Path) -> Literal["NFC"] | None:
    """The Unicode form into which a tokenizer brings text, if that is all it does to it."""
    kind = (json.loads(tokenizer_file.read_text(encoding="utf-8")).get("normalizer") or {}).get("type")
    return "NFC" if kind == "NFC" else None


def _different(text: str, ours: list[int], theirs: list[int]) -> CheckFailed:
    where = next((index for index, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), None)
    if where is None:
        where = min(len(ours), len(theirs))
    return CheckFailed(
        f"The GGUF splits text differently from the model's tokenizer. In {text[:80]!r}, from token {where + 1} on: "
        f"{ours[where : where + 6]} became {theirs[where : where + 6]} ({len(ours)} tokens against {len(theirs)}).",
        next="Do not use this file. Train on a base whose tokenizer is unchanged, or set LLAMA_CPP_DIR to a newer "
        "llama.cpp that knows this tokenizer.",
    )
