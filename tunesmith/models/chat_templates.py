"""Jinja chat templates: rendering as transformers does, telling families apart, finding the answers.

Nothing of this is public; `prompt_format.py` is the door.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from tunesmith.errors import BadInput, NotSupported

if TYPE_CHECKING:
    import jinja2

    from tunesmith.models.turns import Turns

ChatFamily = Literal["chatml", "llama3", "mistral", "gemma", "phi"]
Render = Callable[[list[dict[str, str]]], str]

THINKING_OFF = "{%- set enable_thinking = false %}\n"
_STRFTIME = re.compile(r"strftime_now\(\s*(['\"])((?:(?!\1)[^\\])*)\1\s*\)")
_END_OF_TURN: dict[ChatFamily, tuple[str, ...]] = {
    "chatml": ("<|im_end|>",),
    "llama3": ("<|eot_id|>",),
    "gemma": ("<end_of_turn>",),
    "phi": ("<|im_end|>", "<|end|>"),
    "mistral": (),  # ends a turn with the tokenizer's own end token
}
_STOPS: dict[ChatFamily, tuple[str, ...]] = {
    "chatml": ("<|im_start|>",),
    "llama3": ("<|start_header_id|>",),
    "gemma": ("<start_of_turn>",),
    "phi": (),
    "mistral": ("[INST]",),
}
MAX_OPENING_BLANKS = 4


def family_of(template: str) -> ChatFamily:
    """Which turn markers a template writes.

    Raises:
        NotSupported: none that are known here.
    """
    if "<|im_sep|>" in template:
        return "phi"
    if "<|im_start|>" in template:
        return "chatml"
    if "<|start_header_id|>" in template:
        return "llama3"
    if "<start_of_turn>" in template:
        return "gemma"
    if "[INST]" in template and "<<SYS>>" not in template:
        return "mistral"
    if "<|end|>" in template and ("<|user|>" in template or "'<|' + message['role'] + '|>'" in template):
        return "phi"
    raise NotSupported(
        "The model's chat template is of no family that is known here (ChatML, Llama 3, Mistral, Gemma, Phi).",
        next="Choose a Qwen, Llama 3, Mistral, Gemma, Phi or SmolLM2 Instruct model, or prompt_format='alpaca'.",
    )


def pin(template: str, today: datetime | None = None) -> str:
    """The template with the choices made that would differ from one rendering to the next.

    A date it prints becomes today's, in its text. Thinking, where it can be switched, is off: the rows hold no
    reasoning, so the empty block belongs to the prompt in training and in use alike.

    Raises:
        NotSupported: it computes a date in a way that cannot be fixed.
    """
    now = today or datetime.now()
    pinned = _STRFTIME.sub(lambda match: json.dumps(now.strftime(match[2])), template)
    if re.search(r"strftime_now\s*\(", pinned):
        raise NotSupported(
            "The chat template prints the time in a way that cannot be fixed, so no two renderings would be equal.",
            next="Use prompt_format='alpaca', or another base model.",
        )
    if "enable_thinking" in pinned and not pinned.startswith(THINKING_OFF):
        pinned = THINKING_OFF + pinned
    return pinned


def render(
    template: str,
    messages: Sequence[dict[str, str]],
    *,
    bos: str | None,
    eos: str,
    add_generation_prompt: bool = False,
) -> str:
    """The text of a conversation, byte for byte what `tokenizer.apply_chat_template` makes of it.

    Raises:
        BadInput: no Jinja template, or it refuses this conversation.
    """
    import jinja2

    special = {name: token for name, token in (("bos_token", bos), ("eos_token", eos)) if token}
    try:
        return _compile(template).render(
            messages=messages, tools=None, documents=None, add_generation_prompt=add_generation_prompt, **special
        )
    except jinja2.TemplateError as error:
        raise _refused(error) from error
    except (TypeError, ValueError, KeyError, AttributeError) as error:  # what the template's expressions may raise
        raise _refused(error) from error


def end_of_turn(family: ChatFamily, assistant_suffix: str, eos: str | None) -> str:
    """The token right after an answer.

    Args:
        assistant_suffix: what the template writes after an answer.
        eos: the tokenizer's end token.

    Raises:
        NotSupported: another text stands there, so a model would not learn to stop.
    """
    for token in (*_END_OF_TURN[family], eos):
        if token and assistant_suffix.startswith(token):
            return token
    raise NotSupported(
        f"The chat template puts {assistant_suffix[:30]!r} after an answer, which is no token that ends one.",
        next="Choose an Instruct model of a known family, or prompt_format='alpaca'.",
    )


def extra_stops(family: ChatFamily) -> tuple[str, ...]:
    """Texts that never belong into an answer, besides its end: the opening of another turn."""
    return _STOPS[family]


def answer_spans(
    messages: list[dict[str, str]], text: str, turns: Turns, end: str, render_one: Render
) -> Iterator[tuple[int, int]]:
    """Where the answers lie in `text`, from the first character the model must write to the end of `end`.

    The conversation is rendered once more with marks in place of the answers, so what is found is where the
    template puts them, not where the same words happen to stand.

    Raises:
        BadInput: the template alters an answer, or drops the system message.
    """
    for message in messages:
        if message["role"] == "system" and message["content"].strip() not in text:
            raise BadInput(
                "The chat template leaves the system message out of a finished conversation.",
                next="Put its words into the first user message, or use a base model with system messages.",
            )
    pieces = _around_answers(messages, render_one)
    answers = [message["content"] for message in messages if message["role"] == "assistant"]
    if not text.startswith(pieces[0]):
        raise _altered(1)
    position = len(pieces[0])
    for number, content in enumerate(answers, start=1):
        before, after = pieces[number - 1], pieces[number]
        shown = next((form for form in _forms(content) if text.startswith(form + after, position)), None)
        if shown is None or not after.startswith(end):
            raise _altered(number)
        start = position - _blanks_to_learn(before, turns)
        yield start, position + len(shown) + len(end)
        position += len(shown) + len(after)
    if position != len(text):
        raise _altered(len(answers))


def _around_answers(messages: list[dict[str, str]], render_one: Render) -> list[str]:
    """The texts before, between and after the answers."""
    everything = "".join(message["content"] for message in messages)
    mark = next(chr(code) * 3 for code in range(0xE0F0, 0xF8FF) if chr(code) not in everything)
    marked = [{**message, "content": mark} if message["role"] == "assistant" else message for message in messages]
    pieces = render_one(marked).split(mark)
    if len(pieces) != 1 + sum(message["role"] == "assistant" for message in messages):
        raise _altered(len(pieces))
    return pieces


def _forms(content: str) -> tuple[str, ...]:
    """An answer as templates write it: as it is, or without the blanks around it."""
    return tuple(
        dict.fromkeys(
            (content, content.strip(), content.lstrip("\n"), content.strip("\n"), content.lstrip(), content.rstrip())
        )
    )


def _blanks_to_learn(before: str, turns: Turns) -> int:
    """Characters before an answer that the prompt does not end with: some templates write ` ` there.

    At use the prompt ends earlier, so the model must write them.
    """
    opened = turns.user_suffix + turns.generation_prompt
    for count in range(MAX_OPENING_BLANKS + 1):
        head, blanks = before[: len(before) - count], before[len(before) - count :]
        if opened and not blanks.strip() and head.endswith(opened):
            return count
    return 0


@lru_cache(maxsize=16)
def _compile(template: str) -> jinja2.Template:
    return _environment().from_string(template)


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    """Set up as transformers does, whose templates these are; sandboxed, as they come from strangers."""
    import jinja2
    from jinja2 import nodes
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %} … {% endgeneration %}` marks answers for others; the text in it is rendered as it is."""

        tags = {"generation"}  # noqa: RUF012 (jinja2's own protocol)

        def parse(self, parser: Any) -> nodes.Node:
            line = next(parser.stream).lineno
            return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(line)

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    def tojson(
        value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
    ) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


def _refused(error: Exception) -> BadInput:
    import jinja2

    if isinstance(error, jinja2.TemplateSyntaxError):
        return BadInput(
            f"The chat template is not valid Jinja: {error}.",
            next="Use another copy of the base model, or prompt_format='alpaca'.",
        )
    return BadInput(
        f"The chat template refuses this conversation: {str(error)[:300]}",
        next="Begin with a user message (after at most one system message) and let user and assistant alternate; "
        "some models take no system message.",
    )


def _altered(number: int) -> BadInput:
    return BadInput(
        f"The chat template alters answer {number}, so what must be learned cannot be found in its text.",
        next="Remove markup such as <think> blocks from the answers, or use prompt_format='alpaca'.",
    )
