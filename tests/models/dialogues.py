"""Conversations that some template once rendered wrongly."""

from __future__ import annotations

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
