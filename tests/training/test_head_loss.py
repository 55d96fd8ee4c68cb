from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from tunesmith.training.engines import trained_head  # noqa: E402
from tunesmith.training.engines.head_loss import SummedLoss  # noqa: E402
from tunesmith.training.memory import LOGIT_TOKENS  # noqa: E402


@pytest.mark.parametrize("tokens", [1, LOGIT_TOKENS, 2 * LOGIT_TOKENS + 3])
@pytest.mark.parametrize("with_bias", [False, True])
def test_the_loss_and_its_gradient_are_those_of_the_scores_computed_at_once(tokens, with_bias):
    draw = torch.Generator().manual_seed(1)
    states = torch.randn(tokens, 12, generator=draw, requires_grad=True)
    weight = torch.randn(50, 12, generator=draw)
    bias = torch.randn(50, generator=draw) if with_bias else None
    wanted = torch.randint(0, 50, (tokens,), generator=draw)

    whole = torch.nn.functional.cross_entropy(torch.nn.functional.linear(states, weight, bias), wanted, reduction="sum")
    (expected,) = torch.autograd.grad(3 * whole, states)
    chunked = SummedLoss.apply(states, wanted, weight, bias)
    (found,) = torch.autograd.grad(3 * chunked, states)
    torch.testing.assert_close(chunked, whole, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_batch_without_a_trained_token_has_a_loss_of_zero_and_a_gradient():
    states = torch.zeros(0, 4, requires_grad=True)
    loss = SummedLoss.apply(states, torch.zeros(0, dtype=torch.long), torch.ones(7, 4), None)
    loss.backward()
    assert loss.item() == 0
    assert states.grad.shape == (0, 4)


def test_bfloat16_is_as_exact_as_its_number_format_allows():
    draw = torch.Generator().manual_seed(2)
    states = torch.randn(40, 16, generator=draw)
    weight = torch.randn(60, 16, generator=draw)
    wanted = torch.randint(0, 60, (40,), generator=draw)
    exact = states.clone().requires_grad_()
    torch.nn.functional.cross_entropy(exact @ weight.T, wanted, reduction="sum").backward()
    rounded = states.bfloat16().requires_grad_()
    SummedLoss.apply(rounded, wanted, weight.bfloat16(), None).backward()
    torch.testing.assert_close(rounded.grad.float(), exact.grad, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("tokens", [0, 1, 2 * LOGIT_TOKENS + 3])
def test_a_head_that_is_trained_gets_the_gradient_of_the_scores_computed_at_once(tokens):
    draw = torch.Generator().manual_seed(3)
    states = torch.randn(tokens, 12, generator=draw, requires_grad=True)
    weight = torch.randn(50, 12, generator=draw, requires_grad=True)
    wanted = torch.randint(0, 50, (tokens,), generator=draw)
    whole = torch.nn.functional.cross_entropy(states @ weight.T, wanted, reduction="sum")
    chunked = trained_head.SummedLoss.apply(states, wanted, weight)
    torch.testing.assert_close(chunked, whole, rtol=1e-5, atol=1e-4)
    expected = torch.autograd.grad(3 * whole, (states, weight))
    for found, right in zip(torch.autograd.grad(3 * chunked, (states, weight)), expected, strict=True):
        torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-4)


def test_under_autocast_a_trained_heads_gradient_is_summed_in_32_bits():
    draw = torch.Generator().manual_seed(4)
    states = torch.randn(2 * LOGIT_TOKENS, 16, generator=draw, requires_grad=True)
    weight = torch.randn(60, 16, generator=draw, requires_grad=True)
    wanted = torch.randint(0, 60, (2 * LOGIT_TOKENS,), generator=draw)
    whole = torch.nn.functional.cross_entropy(states @ weight.T, wanted, reduction="sum")
    expected = torch.autograd.grad(whole, (states, weight))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = trained_head.SummedLoss.apply(states, wanted, weight)
    found = torch.autograd.grad(loss, (states, weight))
    assert [gradient.dtype for gradient in found] == [torch.float32, torch.float32]
    for gradient, right in zip(found, expected, strict=True):
        assert (gradient - right).norm() < 0.01 * right.norm()
