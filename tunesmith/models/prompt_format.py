"""How messages become text: the one place where that happens.

A run chooses one `PromptFormat` and stores it; training text and loss mask,
generation, Ollama's TEMPLATE and its stops all come from that object.

The template is the model's own Jinja chat template, rendered exactly as
`tokenizer.apply_chat_template` renders it, with two choices made once, in the
template's text, because they would otherwise differ between training and use:
the date that some templates print is the day the format was made, and thinking
is off where a template has that switch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from tunesmith.errors import BadInput, EmptyInput, InvalidArgument
from tunesmith.models import chat_templates
from tunesmith.models.turns import Turns, read_turns

Family = Literal["chatml", "llama3", "mistral", "gemma", "phi", "alpaca"]

ROLES = ("system", "user", "assistant")

# The Alpaca text. An example's `input` is part of its instruction by the time it is a message, after an empty line,
# so the text with and without input is one; a system message takes the place of the first sentence.
ALPACA_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "{{ 'Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\\n\\n' }}"
    "{% endif %}"
    "{% if message['role'] == 'system' %}{{ message['content'] + '\\n\\n' }}"
    "{% elif message['role'] == 'user' %}{{ '### Instruction:\\n' + message['content'] + '\\n\\n' }}"
    "{% else %}{{ '### Response:\\n' + message['content'] + eos_token + '\\n\\n' }}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '### Response:\\n' }}{% endif %}"
)


@dataclass(frozen=True)
class Segment:
    """A stretch of rendered text that carries loss or does not."""

    text: str
    trained: bool


@dataclass(frozen=True)
class PromptFormat:
    """One way from messages to text.

    Attributes:
        name: chat (the model's own template) or alpaca.
        family: which tokens mark the turns.
        template: Jinja text.
        bos: the tokenizer's first token, which a template may print; None if it has none.
        eos: the token that ends an answer. Training teaches it and every runtime must stop at it.
        template_eos: what `eos_token` means inside the template; differs from `eos` where a tokenizer's own
            end token is not the one that ends a turn.
        stops: texts at which a runtime ends an answer.
    """

    name: Literal["chat", "alpaca"]
    family: Family
    template: str
    bos: str | None
    eos: str
    template_eos: str
    stops: tuple[str, ...]

    @classmethod
    def from_chat_template(cls, template: str, *, bos: str | None, eos: str | None) -> PromptFormat:
        """The format of a model's own chat template.

        Args:
            template: Jinja text, as the tokenizer has it.
            bos, eos: the tokenizer's special tokens, None where it has none.

        Raises:
            BadInput: not a Jinja template.
            NotSupported: of no known family, or one whose answers cannot be told from the rest of the text.
        """
        family = chat_templates.family_of(template)
        pinned = chat_templates.pin(template)
        turns = read_turns(pinned, bos, eos or "")
        end = chat_templates.end_of_turn(family, turns.assistant_suffix, eos)
        stops = dict.fromkeys(filter(None, (end, *chat_templates.extra_stops(family), eos)))
        return cls("chat", family, pinned, bos, end, eos or "", tuple(stops))

    @classmethod
    def alpaca(cls, eos: str, *, bos: str | None = None) -> PromptFormat:
        """The Alpaca text, for models without a chat template.

        Args:
            eos: the tokenizer's end token, which ends an answer.
            bos: its first token, for tokenizers that put one before every text.

        Raises:
            InvalidArgument: `eos` is empty; the model would never learn to stop.
        """
        if not eos:
            raise InvalidArgument(
                "The Alpaca format needs an end token, and this tokenizer has none.",
                next="Choose a base model whose tokenizer has an eos_token.",
            )
        return cls("alpaca", "alpaca", ALPACA_TEMPLATE, bos, eos, eos, (eos, "### Instruction:"))

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> PromptFormat:
        """The format stored by `as_record`.

        Raises:
            BadInput: fields are missing, or it does not have the digest it was stored with.
        """
        try:
            made = cls(
                record["name"],
                record["family"],
                record["template"],
                record["bos"],
                record["eos"],
                record["template_eos"],
                tuple(record["stops"]),
            )
        except (KeyError, TypeError) as error:
            raise BadInput(
                f"The stored prompt format lacks {error}.", next="Train again with this version of tunesmith."
            ) from error
        if record.get("sha256", made.sha256) != made.sha256:
            raise BadInput(
                "The stored prompt format is not the one it was stored as: its SHA-256 differs.",
                next="Restore the model's manifest from a copy, or train again.",
            )
        return made

    def as_record(self) -> dict[str, Any]:
        """The format as it is stored with a run and a model; `sha256` included."""
        return {**self._fields(), "sha256": self.sha256}

    @property
    def sha256(self) -> str:
        """SHA-256 over the record's canonical JSON: sorted keys, no blanks, UTF-8."""
        return _digest(json.dumps(self._fields(), ensure_ascii=False, sort_keys=True, separators=(",", ":")))

    @property
    def turns(self) -> Turns:
        """What stands before and after each message, as the template has it."""
        return read_turns(self.template, self.bos, self.template_eos)

    @property
    def supports_system(self) -> bool:
        """Whether a system message is allowed."""
        return self.turns.system_prefix is not None

    @property
    def trims(self) -> bool:
        """Whether blanks around messages are taken off."""
        return self.turns.trims

    def render(self, messages: Sequence[Any], *, add_generation_prompt: bool = False) -> str:
        """The text of a conversation.

        Args:
            messages: objects or mappings with role (system, user, assistant) and content.
            add_generation_prompt: end with the opening of an answer.

        Raises:
            EmptyInput: no messages.
            InvalidArgument: a message is not one.
            BadInput: the template refuses this conversation; its own words are in the message.
        """
        return self._render(as_messages(messages), add_generation_prompt=add_generation_prompt)

    def segments(self, messages: Sequence[Any]) -> list[Segment]:
        """The rendered text in stretches: what the model must learn to write is `trained`, the rest is not.

        Trained is each answer with the token that ends it, and nothing else. Joined, the texts are `render(messages)`.

        Some templates (Mistral's) put the system message into the last user turn while an answer is asked for, and
        leave it out of a finished conversation. There the text is the prompt for the last answer and that answer, and
        only it is trained: at use, no earlier answer was given to a prompt that looks as its stretch does then.

        Raises:
            As `render`; BadInput too where the template alters an answer, or drops the system message.
        """
        plain = as_messages(messages)
        if self.turns.system_in_last_user and plain[0]["role"] == "system" and plain[-1]["role"] == "assistant":
            return self._segments_of_last(plain)
        return self._segments_of_all(plain)

    def _segments_of_all(self, plain: list[dict[str, str]]) -> list[Segment]:
        text = self._render(plain)
        spans = chat_templates.answer_spans(plain, text, self.turns, self.eos, self._render)
        result: list[Segment] = []
        position = 0
        for start, end in spans:
            result += [Segment(text[position:start], False), Segment(text[start:end], True)]
            position = end
        result.append(Segment(text[position:], False))
        return [segment for segment in result if segment.text]

    def _segments_of_last(self, plain: list[dict[str, str]]) -> list[Segment]:
        prompt = self._render(plain[:-1], add_generation_prompt=True)
        answer = self._segments_of_all(plain[1:])
        last = max(number for number, segment in enumerate(answer) if segment.trained)
        return [Segment(prompt, False), *answer[last:]]

    def ollama_template(self) -> str:
        """The Go template with which Ollama renders what `ollama_prompt` returns.

        Raises:
            NotSupported: the template does what Ollama's language cannot say.
        """
        from tunesmith.models.ollama_template import go_template

        return go_template(self.turns, bos=self.leading_bos)

    def ollama_prompt(self, messages: Sequence[Any]) -> str:
        """What Ollama must render for `messages`: the text up to the answer, without the first token that the
        runtime puts there by itself.
        """
        return self.render(messages, add_generation_prompt=True).removeprefix(self.leading_bos)

    @property
    def leading_bos(self) -> str:
        """BOS where the text begins with one that is no turn marker. Runtimes add it, so their templates must not."""
        writes = self.bos and self.family != "chatml" and self.turns.opening.startswith(self.bos)
        return self.bos or "" if writes else ""

    def _render(self, messages: list[dict[str, str]], *, add_generation_prompt: bool = False) -> str:
        return chat_templates.render(
            self.template, messages, bos=self.bos, eos=self.template_eos, add_generation_prompt=add_generation_prompt
        )

    def _fields(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "family": self.family,
            "template": self.template,
            "bos": self.bos,
            "eos": self.eos,
            "template_eos": self.template_eos,
            "stops": list(self.stops),
        }


def only_last_trained(segments: Sequence[Segment]) -> list[Segment]:
    """The same text, of which only the last answer is to be learned: preference training compares that one."""
    last = max((number for number, segment in enumerate(segments) if segment.trained), default=-1)
    return [Segment(segment.text, number == last) for number, segment in enumerate(segments)]


def as_messages(messages: Sequence[Any]) -> list[dict[str, str]]:
    """Messages as plain mappings, checked.

    Raises:
        EmptyInput: there are none.
        InvalidArgument: one has another role than system, user or assistant, or no text.
    """
    if not messages:
        raise EmptyInput("There is no message to render.", next="Give at least one user message.")
    plain = []
    for number, message in enumerate(messages, start=1):
        role, content = (
            (message.get("role"), message.get("content"))
            if isinstance(message, dict)
            else (getattr(message, "role", None), getattr(message, "content", None))
        )
        if role not in ROLES or not isinstance(content, str):
            raise InvalidArgument(
                f"Message {number} has role {role!r} and content of type {type(content).__name__}.",
                next="Each message needs a role (system, user or assistant) and content (text).",
            )
        plain.append({"role": role, "content": content})
    return plain


@lru_cache(maxsize=64)
def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
