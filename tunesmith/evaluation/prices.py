"""Prices that the user states. Nothing here knows a price: what is not stated is not turned into money."""

from __future__ import annotations

from typing import Any

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from tunesmith.errors import InvalidArgument

MILLION = 1_000_000
HOW_TO_STATE = (
    "No price is stated, so there is no sum of money: set TUNESMITH_GPU_PRICE_PER_HOUR=1.50 for training on GPUs, "
    'TUNESMITH_TOKEN_PRICES={"MODEL": [3.0, 15.0]} for a million tokens sent and received, TUNESMITH_CURRENCY=EUR.'
)


class Prices(BaseSettings):
    """What hours and tokens cost, by the environment (`TUNESMITH_…`).

    Raises:
        InvalidArgument: a variable that cannot be read.
    """

    model_config = SettingsConfigDict(env_prefix="TUNESMITH_", env_ignore_empty=True, extra="ignore")

    gpu_price_per_hour: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    token_prices: dict[str, tuple[float, float]] = Field(default_factory=dict)
    currency: str = Field(default="", max_length=10)

    def __init__(self, **given: Any) -> None:
        try:
            super().__init__(**given)
        except SettingsError as error:
            raise _unreadable("token_prices", f"not JSON, {error.__cause__}") from error
        except ValidationError as error:
            first = error.errors()[0]
            raise _unreadable(str(first["loc"][0]), str(first["msg"])) from error
        if any(not 0 <= price < float("inf") for pair in self.token_prices.values() for price in pair):
            raise _unreadable("token_prices", "a price is negative or no number")

    def of_training(self, gpu_hours: float | None) -> float | None:
        """Money for hours of one GPU; None without a stated price."""
        if gpu_hours is None or self.gpu_price_per_hour is None:
            return None
        return gpu_hours * self.gpu_price_per_hour

    def of_tokens(self, model: str, prompt: int, completion: int) -> float | None:
        """Money for a model's tokens; None without a stated price for it.

        Args:
            model: the name at its endpoint, as in `openai:NAME`.
        """
        pair = self.token_prices.get(model)
        return None if pair is None else (prompt * pair[0] + completion * pair[1]) / MILLION

    def money(self, value: float) -> str:
        """A sum for people, with the stated currency."""
        digits = 2 if value >= 1 or value == 0 else 4
        return f"{value:,.{digits}f} {self.currency}".strip()


def _unreadable(setting: str, why: str) -> InvalidArgument:
    shape = {
        "gpu_price_per_hour": "a number such as 1.50",
        "token_prices": 'JSON such as {"MODEL": [3.0, 15.0]}, per million tokens sent and received',
        "currency": "a text of at most 10 characters such as EUR",
    }
    return InvalidArgument(
        f"The environment's TUNESMITH_{setting.upper()} cannot be read: {why}.",
        next=f"Set it to {shape.get(setting, 'a text')}, or take it away.",
    )
