"""What a strategy is given and what it returns."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from tunesmith.data.headings import in_language, main_language, needs_context
from tunesmith.data.language import Language, language_of
from tunesmith.data.sections import Section

AskIn = Literal["auto", "zh", "en"]
# A score calls shorter answers too short; a short answer to a written question is still an answer.
MIN_ANSWER_CHARS = 20
MIN_FAQ_ANSWER_CHARS = 8
_FEW_CHARS, _FEW_WORDS = 120, 12


@dataclass(slots=True)
class Candidate:
    """A question and its answer, found in one section.

    Attributes:
        about: what is asked about: where two candidates share it, both name their surroundings.
        questions: ways to ask, from the plainest to the one that names all its surroundings: a later one is
            used when an earlier one would be asked twice.
        first_line, last_line: where the answer stands.
        blocks: the section's blocks (by number) that it was made of.
        alone: those blocks make no sense inside another answer.
        shortened: something was left out for length.
    """

    about: str
    questions: tuple[str, ...]
    answer: str
    first_line: int
    last_line: int
    blocks: frozenset[int]
    alone: bool = False
    shortened: bool = False


@dataclass
class View:
    """A section with all a strategy may want to know.

    Attributes:
        section: what to look into.
        title: of the document; when it has none, made of its file name.
        text: the whole document.
        ask_in: the language of questions; `auto` is that of the body.
        max_chars: no answer is longer.
        taken: blocks from which the strategies before made something.
        alone: the ones of them that must not be used again.
    """

    section: Section
    title: str
    text: str
    ask_in: AskIn
    max_chars: int
    taken: frozenset[int] = frozenset()
    alone: frozenset[int] = frozenset()

    @property
    def free(self) -> list[int]:
        """Numbers of the blocks that nobody has used."""
        return [number for number in range(len(self.section.blocks)) if number not in self.taken]

    def language(self, body: str, lead: str = "") -> Language:
        """The language to ask in about `body`, which `lead` introduces.

        A few English words (names, a command) do not make it English.
        """
        if self.ask_in != "auto":
            return self.ask_in
        found = main_language(body, self.section.heading or self.title)
        few = found == "en" and len(body) <= _FEW_CHARS and len(body.split()) <= _FEW_WORDS
        if few and (language_of(lead) == "zh" or self._is_chinese):
            return "zh"
        return found

    @cached_property
    def _is_chinese(self) -> bool:
        """Whether the section around is Chinese: its heading, and its prose where it has any."""
        prose = "\n".join(block.text for block in self.section.blocks if block.is_prose)
        return language_of(in_language(self.section.heading or self.title, "en")) == "zh" and (
            not prose or language_of(prose) == "zh"
        )

    def heading(self, language: Language) -> str:
        """The section's heading in that language, without numbering; the title where there is no heading."""
        return in_language(self.section.heading or self.title, language)

    def topics(self, language: Language, *, own: bool) -> list[str]:
        """What a question belongs to, from near to far: the heading (`own`), parents and title that mean something."""
        heading = self.heading(language)
        above = [in_language(name, language) for name in (*reversed(self.section.parents), self.title)]
        names = [heading, *above] if own else [name for name in above if name != heading]
        distinct = [name for name in dict.fromkeys(names) if name]
        return [name for name in distinct if not needs_context(name)] or distinct

    @cached_property
    def path(self) -> str:
        """The headings down to this one: what choices of wording hang on."""
        return "\x1f".join((self.title, *self.section.parents, self.section.heading))
