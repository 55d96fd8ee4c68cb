"""The facts of a run's rows, as they are kept in `facts.json`."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Control(BaseModel):
    """The loss on held-out rows with their own answers, and with answers exchanged among them."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=True)

    rows: int = Field(description="Rows in each of the two.")
    own: float = Field(description="Loss with the rows' own answers, nats per token.")
    exchanged: float = Field(description="Loss with each other's answers, nats per token.")


class Facts(BaseModel):
    """Numbers about the rows of a run. Shares are from 0 to 1, of the training rows unless said otherwise."""

    model_config = ConfigDict(extra="ignore")

    objective: str = Field(default="sft", description="What was learned: sft, or dpo for preference.")
    rows: int = Field(description="Rows trained on.")
    held_out: int = Field(description="Rows held out.")
    vocabulary: int = Field(description="Tokens the base knows; guessing among them costs the logarithm of that.")
    repeated_share: float = Field(description="Rows that repeat an earlier one.")
    distinct_answers: int = Field(description="Different answers.")
    commonest_answer_share: float = Field(description="Rows that have the commonest answer.")
    leaked_share: float = Field(description="Held-out rows whose question or long answer is trained on as well.")
    unended_share: float = Field(description="Rows whose answer ends without the token that ends an answer.")
    cut_share: float = Field(description="Rows cut at max_length.")
    longest_answer_share: float = Field(
        description="Rows whose answer has the longest length and breaks off: cut in the data."
    )
    asking_prompts_share: float = Field(description="Rows whose prompt ends with a question mark.")
    asking_answers_share: float = Field(description="Rows whose answer ends with a question mark.")
    garbled_share: float = Field(description="Rows whose answer looks like no language.")
    bytes_per_token: float = Field(
        description="UTF-8 bytes of an answer for one token, without digits; the middle row's, 0: not known."
    )
    control_before: Control | None = Field(default=None, description="Before the first step.")
    control_after: Control | None = Field(default=None, description="With the model that was kept.")
