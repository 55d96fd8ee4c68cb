"""Dialogues on which two ways of rendering a prompt are compared.

Each is one that some template once got wrong: no system prompt, an empty one,
several turns, an answer that ends in blanks, text that looks like a template or
like a special token.
"""

from __future__ import annotations

from collections.abc import Sequence

Dialogue = list[dict[str, str]]


def _dialogue(*turns: str, system: str | None = None) -> Dialogue:
    """User and assistant by turns, beginning with the user."""
    messages = [{"role": "system", "content": system}] if system is not None else []
    roles = ("user", "assistant")
    return messages + [{"role": roles[number % 2], "content": turn} for number, turn in enumerate(turns)]


SYSTEM = "You answer from the manual, in two sentences at most."
CODE = 'def area(r: float) -> float:\n    """Area of a circle."""\n    return 3.14159 * r ** 2\n'

# All end with the user: what is compared is the prompt for the next answer.
PROMPTS: Sequence[Dialogue] = (
    _dialogue("What does the green lamp mean?"),
    _dialogue("What does the green lamp mean?", system=SYSTEM),
    _dialogue("What does the green lamp mean?", system=""),
    _dialogue("a"),
    _dialogue("绿灯亮起来是什么意思？"),
    _dialogue("绿灯亮起来是什么意思？", system="你是一位耐心的助手，请用中文回答。"),
    _dialogue("怎样清洗滤网？", "先断电，再取出滤网，用清水冲洗。", "需要多久洗一次？"),
    _dialogue("日本語でも答えられますか？", system="簡潔に答えてください。"),
    _dialogue("Which key?", "The left one.", "And then?"),
    _dialogue("Which key?", "The left one.", "And then?", system=SYSTEM),
    _dialogue("Which key?", "The left one.", "And then?", system=""),
    _dialogue("One", "Two", "Three", "Four", "Five", "Six", "Seven", system="Count on."),
    _dialogue(f"What does this do?\n\n```python\n{CODE}```"),
    _dialogue("Write it in C.", "```c\nint main(void) { return 0; }\n```", "Now with { braces } and %s."),
    _dialogue("Line one\nline two\n\n\nline five after blank lines"),
    _dialogue("\ttab, and  two spaces, at the end of a line  \nnext line"),
    _dialogue("{{ .System }} {{ range .Messages }} {% for m in messages %} {{ m.content }}", system="{{ .Prompt }}"),
    _dialogue('Quotes: "double", \'single\', """triple""", `back`, \\ backslash, & < > &amp;'),
    _dialogue("Emoji 🙂👍🏽 👩\u200d💻, accents é ñ ü, math ∑ ∞ ≠, full-width ＡＢＣ１２３"),
    _dialogue("| a | b |\n|---|---|\n| 1 | 2 |\n\n- item\n- item", system="Use Markdown."),
    _dialogue("Numbers: 1234567890, 3.14159, -40 °C, 2026-11-24"),
    _dialogue("Is it on?", "Yes.", "Is it warm?", "No.\n\nIt needs ten minutes.", "And now?", system="多轮对话"),
    _dialogue("A long question. " * 60, system="A long system prompt. " * 30),
    _dialogue("### Instruction:\nheadings in the question\n\n### Response:\nand this"),
    # What programs send and what stays in a history: blanks at the ends, which some models' templates take off.
    _dialogue("  Is it on?\n", " Yes, it is.\n\n", "\n\nAnd now? ", system=" Be brief.\n"),
    _dialogue("　　现在呢？　", "\tIt is.\r\n", "\u00a0ok\u2003"),
)  # fmt: skip

# With answers: to hold models against each other when there is no dataset.
ANSWERED: Sequence[Dialogue] = (
    _dialogue("What is the capital of France?", "The capital of France is Paris."),
    _dialogue("Name three primary colours.", "Red, yellow and blue are the three primary colours.", system=SYSTEM),
    _dialogue("How do I boil an egg?", "Put the egg into boiling water, wait seven minutes, then cool it."),
    _dialogue("水在多少度沸腾？", "在标准大气压下，水在一百摄氏度沸腾。"),
    _dialogue("Write a function that adds two numbers.", "```python\ndef add(a, b):\n    return a + b\n```"),
    _dialogue("Why is the sky blue?", "Air scatters blue light more than red light, so we see blue everywhere."),
    _dialogue("List the days of the weekend.", "- Saturday\n- Sunday"),
    _dialogue("你好！", "你好！有什么可以帮你的吗？", "介绍一下你自己。", "我是一个语言模型，可以回答问题。"),
    _dialogue("What is 12 times 12?", "12 times 12 is 144."),
    _dialogue("Translate 'good morning' into German.", "'Good morning' is 'Guten Morgen' in German."),
    _dialogue("What does a thermometer measure?", "A thermometer measures temperature."),
    _dialogue("Give me advice for a rainy day.", "Take an umbrella, wear shoes that keep water out, and leave early."),
)  # fmt: skip
