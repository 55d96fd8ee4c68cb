from __future__ import annotations

import pytest

from tunesmith.errors import InvalidArgument
from tunesmith.export.quantizations import QUANTIZATIONS, check_quantizations


def test_every_precision_of_the_contract_is_known() -> None:
    assert {"q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_0", "iq4_xs", "bf16", "f16"} == set(QUANTIZATIONS)


def test_names_are_taken_in_either_spelling_and_once() -> None:
    assert check_quantizations(["Q4_K_M", "q4-k-m", "q8_0"]) == ("q4_k_m", "q8_0")


@pytest.mark.parametrize(
    ("wrong", "nearest"), [("q4_km", "q4_k_m"), ("q8", "q8_0"), ("Q5_K", "q5_k_m"), ("fp16", "f16")]
)
def test_an_unknown_name_is_answered_with_the_nearest(wrong: str, nearest: str) -> None:
    with pytest.raises(InvalidArgument, match=f"nearest is {nearest}") as caught:
        check_quantizations([wrong])
    assert "iq4_xs" in caught.value.next


def test_no_quantization_at_all_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="empty"):
        check_quantizations([])


def test_an_adapter_is_f16_unless_another_of_its_types_is_asked_for() -> None:
    assert check_quantizations(None, adapter_only=True) == ("f16",)
    assert check_quantizations(["q4_k_m"], adapter_only=True) == ("f16",)
    assert check_quantizations(["q8_0"], adapter_only=True) == ("q8_0",)
    with pytest.raises(InvalidArgument, match="q6_k"):
        check_quantizations(["f16", "q6_k"], adapter_only=True)
