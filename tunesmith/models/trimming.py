"""Blanks that a chat template takes off the ends of messages, found out by rendering each of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

# What Python's str.strip, and so Jinja's trim, takes for a blank. The ideographic space opens Chinese paragraphs.
BLANKS = "".join(
    chr(code)
    for code in (*range(0x09, 0x0E), *range(0x1C, 0x21), 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B),
                 0x2028, 0x2029, 0x202F, 0x205F, 0x3000)
)  # fmt: skip


@dataclass(frozen=True)
class Trim:
    """What is taken off one role's messages.

    Attributes:
        left, right: the characters taken off the front and off the end, however many stand there.
    """

    left: str = ""
    right: str = ""

    def __bool__(self) -> bool:
        return bool(self.left or self.right)

    def __call__(self, text: str) -> str:
        """The text as the template writes it."""
        return text.lstrip(self.left).rstrip(self.right) if self else text


NO_TRIM = Trim()


def read_trim(render: Callable[[str], str], mark: str) -> Trim:
    """What a template takes off a message.

    Args:
        render: the text of a conversation in which the message in question is the argument.
        mark: a message without blanks that occurs nowhere else in that text.
    """
    plain = render(mark)

    def taken(before: bool, blanks: str) -> bool:
        return render(blanks + mark if before else mark + blanks) == plain

    def characters(before: bool) -> str:
        # One by one where not all are taken: a run of them ends at the first that stays.
        return BLANKS if taken(before, BLANKS) else "".join(blank for blank in BLANKS if taken(before, blank))

    return Trim(characters(before=True), characters(before=False))
