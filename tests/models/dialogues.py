"""Conversations that some template once rendered wrongly."""

from __future__ import annotations

import random

Messages = list[dict[str, str]]


def talk(*turns: str, system: str | None = None) -> Messages:
    """User and assistant by turns, the user first."""
    opening = [{"role": "system", "content": system}] if system is not None else []
    return opening + [{"role": ("user", "assistant")[number % 2], "content": turn} for number, turn in enumerate(turns)]


CODE = "```python\ndef f(x: dict) -> str:\n    return f\"{x['a']!r}\"\n```"
SYSTEM = "Be brief."
# Each ends with the user.
PROMPTS: list[Messages] = [
    talk("Hello"),
    talk("Hello", system=SYSTEM),
    talk("Hello", system=""),
    talk("x"),
    talk("你好，请介绍一下你自己。"),
    talk("你好", system="你是一个有帮助的助手。请用中文回答。"),
    talk("One?", "One.", "Two?"),
    talk("One?", "One.", "Two?", system=SYSTEM),
    talk("One?", "One.", "Two?", system=""),
    talk("1", "2", "3", "4", "5"),
    talk("1", "2", "3", "4", "5", "6", "7", system="多轮"),
    talk(f"Explain:\n\n{CODE}"),
    talk("Write C.", "```c\nint main() { return 0; }\n```", "Thanks. Now { } {{ }} {% x %}"),
    talk("{{ .Content }} {{ range .Messages }} {{ end }}", system="{{ .System }}"),
    talk("{% for m in messages %}{{ m }}{% endfor %}"),
    talk("tabs\tand  blanks\n\n\nlines"),
    talk("<|im_end|> <|im_start|>assistant\nhm"),
    talk("👩\u200d💻 🙂 e\u0301 \u00a0 \u2028 ＡＢＣ"),
    talk("\"quotes\" 'single' `back` \\n \\ & < >"),
    talk("first\r\nsecond", system="a\nb"),
    talk("long " * 300 + "end", system="long " * 200 + "end"),
    talk("Is it?", "Yes.\n\nIt is.", "Sure?", "Sure.", "Really?"),
    talk("</s> [INST] [/INST] <bos> <end_of_turn> <|end|> <|eot_id|>"),
    talk("### Instruction:\nx\n\n### Response:\ny"),
]
# Each ends with an answer.
ANSWERED: list[Messages] = [
    talk("Hello", "Hi there."),
    talk("Hello", "Hi.", system=SYSTEM),
    talk("你好", "你好！很高兴见到你。"),
    talk("One?", "One.", "Two?", "Two.", "Three?", "Three."),
    talk("Same", "Same", "Same", "Same"),
    talk("Code", CODE),
    talk("Say user", "user", "Say assistant\n", "assistant"),
    talk("End token", "It is written <|im_end|> or </s>."),
]

_TEXTS = (
    "What does the green lamp mean?", "ok", "Go on.", "1234567890 3.14 −40 °C ½ ②", "绿灯亮起来是什么意思？",
    "先断电，再取出滤网，用清水冲洗。", "「全角」，。！？\u3000全角空格\u3000ＡＢＣ１２３",
    "繁體與简体混排 with English words。", "日本語でも答えられますか？", "한국어 문장입니다.",
    "Привет, мир! עברית العربية हिन्दी ไทย", CODE, "```c\nint main(void) { return a[0]; }\n```",
    "SELECT '%s' -- \"x\" \\n \\t \\\\ C:\\path", "def f():\n\treturn {'a': {'b': 1}}\n\n\nclass A: pass",
    "| a | b |\n|---|---|\n| 1 | 2 |\n\n- x\n  - y", "🙂 👍🏽 👩\u200d👩\u200d👧\u200d👦 🇩🇪 🏳️\u200d🌈",
    "é \u00a0 \u200b \u2028 \u2029 \ufeff ﷽ 𝕌𠜎", "{{ .Content }} {{ range .Messages }}{{ end }}",
    "{% for m in messages %}{{ m }}{% endfor %}", "{{", "}}", "{", "{# no #}", "{{ template \"trim1\" . }}",
    "{{- .System -}}", "%s %d %% ${x} $HOME `ls`", "<b>&amp;</b> \"double\" 'single' `back`",
    "<|im_end|>\n<|im_start|>assistant\nhm", "<|eot_id|><|start_header_id|>system<|end_header_id|>\n\nx",
    "</s><s>[INST] x [/INST]", "<end_of_turn>\n<start_of_turn>model\n", "<|end|><|user|>\nx<|assistant|>",
    "### Instruction:\nx\n\n### Response:\n", "<bos><eos><pad><unk><|endoftext|>", "system", "user",
    "assistant", "model", "<think>", "\"\"\"", "a\r\nb\rc", "\\", "\0x", "line one\nline two\n\n\nline five",
    "tabs\tand  two  blanks", "x" * 3000, "很长的问题。" * 400, "A long line of words. " * 200,
)  # fmt: skip
_EDGES = (
    "{}", "{}", "{}", " {}", "{} ", "\n{}", "{}\n", "\n\n {} \n\n", "\t{}\t", "\u3000\u3000{}", "{}\u3000",
    "{}\r\n", "\u00a0{}\u2003", "\u200b{}\ufeff",
)  # fmt: skip
_BLANK = ("", " ", "\n", " \n\t ", "　")


def many(count: int = 200, seed: int = 6) -> list[Messages]:
    """Dialogues that end with the user, the same ones every time: what people type, and what breaks templates.

    Without a system message, with one, with an empty one; of one to eight turns; of which some begin or end with
    blanks, are nothing else or nothing at all, spell special tokens or templates, or are very long.
    """
    draw = random.Random(seed)

    def text() -> str:
        if draw.random() < 0.06:
            return draw.choice(_BLANK)
        body = draw.choice(_TEXTS)
        if draw.random() < 0.3:
            body += draw.choice((" ", "\n", "\n\n", "")) + draw.choice(_TEXTS)
        return draw.choice(_EDGES).replace("{}", body)

    # Each text and each edge once at least, then whatever is drawn.
    certain = [talk(edge.replace("{}", "x"), edge.replace("{}", "y"), "z") for edge in dict.fromkeys(_EDGES)]
    certain += [talk(body, body, body) for body in _TEXTS]
    certain += [talk(blank, blank, blank, system=system) for blank in _BLANK for system in (None, SYSTEM)]
    certain += [
        talk("q", "a", "r", system=system) for system in (*_BLANK, *(edge.replace("{}", "s") for edge in _EDGES))
    ]
    drawn = (
        talk(*(text() for _ in range(draw.choice((1, 1, 3, 5, 7)))), system=draw.choice((None, None, text(), "")))
        for _ in range(count)
    )
    return [*certain, *drawn][:count]
