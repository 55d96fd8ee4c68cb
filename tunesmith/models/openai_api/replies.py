"""Responses in OpenAI's shapes."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field
from typing import Any

from tunesmith.models.openai_api.runtime import Ended


@dataclass(frozen=True)
class Shape:
    """One response's name and time, and the form its parts have.

    Args:
        model: the served name.
        chat: of /v1/chat/completions; else of /v1/completions.
        fingerprint: of the file that answers.
    """

    model: str
    chat: bool
    fingerprint: str
    created: int = field(default_factory=lambda: int(time.time()))
    name: str = field(default_factory=lambda: secrets.token_hex(12))

    def whole(self, text: str, ended: Ended) -> dict[str, Any]:
        """The response when it is not streamed."""
        said: dict[str, Any] = (
            {"message": {"role": "assistant", "content": text, "refusal": None}} if self.chat else {"text": text}
        )
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": ended.finish_reason}
        return {**self._head("chat.completion"), "choices": [choice], "usage": usage(ended)}

    def opening(self) -> dict[str, Any] | None:
        """The first part of a stream; None where there is none."""
        return self._part({"role": "assistant", "content": ""}, None) if self.chat else None

    def piece(self, text: str) -> dict[str, Any]:
        """A part of the text."""
        return self._part({"content": text} if self.chat else text, None)

    def closing(self, ended: Ended) -> dict[str, Any]:
        """The part that says how the text ended."""
        return self._part({} if self.chat else "", ended.finish_reason)

    def counted(self, ended: Ended) -> dict[str, Any]:
        """The part with the numbers of tokens, which comes last."""
        return {**self._head("chat.completion.chunk"), "choices": [], "usage": usage(ended)}

    def _part(self, content: Any, finish_reason: str | None) -> dict[str, Any]:
        choice = {
            "index": 0,
            "delta" if self.chat else "text": content,
            "logprobs": None,
            "finish_reason": finish_reason,
        }
        return {**self._head("chat.completion.chunk"), "choices": [choice]}

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": f"{'chatcmpl' if self.chat else 'cmpl'}-{self.name}",
            "object": kind if self.chat else "text_completion",
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }


def usage(ended: Ended) -> dict[str, Any]:
    """The numbers of tokens."""
    return {
        "prompt_tokens": ended.prompt_tokens,
        "completion_tokens": ended.tokens,
        "total_tokens": ended.prompt_tokens + ended.tokens,
        "prompt_tokens_details": {"cached_tokens": ended.cached_tokens},
    }
