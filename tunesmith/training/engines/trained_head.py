"""Cross entropy in chunks where the head is trained too: what `head_loss` does, with the weight's gradient as well.

The library's chunked loss makes a gradient of the size of the head for every chunk, rounded to the number format of
the computation, and the scores twice. Here the scores are computed once and the gradient is summed in 32 bits.
"""

from __future__ import annotations

from typing import Any

import torch

from tunesmith.training.engines.head_loss import CONTEXT, answers
from tunesmith.training.kernels import PLAIN_MODELS
from tunesmith.training.memory import LOGIT_TOKENS


def can_take(model: Any) -> bool:
    """Whether `loss_of` gives this model's loss: a whole model, not wrapped, with a plain head that is trained."""
    if hasattr(model, "get_base_model") or not hasattr(model, "get_output_embeddings"):
        return False
    head = model.get_output_embeddings()
    return (
        getattr(model.config, "model_type", None) in PLAIN_MODELS
        and type(head) is torch.nn.Linear
        and head.weight.requires_grad
        and head.bias is None
    )


def loss_of(model: Any, inputs: dict[str, Any], items: Any) -> torch.Tensor:
    """The loss of one micro-batch, scores computed only where a token is trained. Under the caller's autocast.

    Args:
        inputs: `input_ids` and `labels` [rows, tokens]; those of `CONTEXT` that are needed.
        items: trained tokens of the whole optimizer step, by which the sum is divided; None: those of this batch.
    """
    context = {name: inputs[name] for name in CONTEXT if name in inputs}
    hidden = model.base_model(input_ids=inputs["input_ids"], use_cache=False, **context).last_hidden_state
    states, wanted = answers(hidden, inputs)
    total: Any = SummedLoss.apply(states, wanted, model.get_output_embeddings().weight)
    return total / (items if items is not None else max(1, len(wanted)))


class SummedLoss(torch.autograd.Function):
    """Summed cross entropy of `states @ weight.T`, with the gradients of both.

    Under autocast the products are computed in its number format, all else in 32 bits.
    """

    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, wanted: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """states [n, hidden], wanted [n], weight [vocabulary, hidden] → a scalar."""
        device = states.device.type
        number = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
        total = torch.zeros((), dtype=torch.float32, device=states.device)
        learning = any(ctx.needs_input_grad)
        of_states = torch.empty_like(states) if learning else None
        of_weight = torch.zeros_like(weight, dtype=torch.float32) if learning else None
        with torch.autocast(device, enabled=False):
            matrix = weight.to(number)
            for start in range(0, len(wanted), LOGIT_TOKENS):
                part = states[start : start + LOGIT_TOKENS].to(number)
                answer = wanted[start : start + LOGIT_TOKENS].unsqueeze(1)
                chances = torch.log_softmax(part @ matrix.T, dim=-1, dtype=torch.float32)
                total -= chances.gather(1, answer).sum()
                if of_states is not None and of_weight is not None:
                    chances.exp_()
                    chances.scatter_add_(1, answer, chances.new_full((len(answer), 1), -1.0))
                    change = chances.to(number)
                    of_states[start : start + LOGIT_TOKENS] = change @ matrix
                    if number == torch.float32:
                        of_weight.addmm_(change.T, part)
                    else:
                        of_weight += change.T @ part
                    del change
                del chances  # before the next chunk's scores are made
        if of_states is not None:
            ctx.save_for_backward(of_states, of_weight)
        return total

    @staticmethod
    def backward(ctx: Any, *outputs: torch.Tensor) -> tuple[torch.Tensor, None, torch.Tensor]:
        of_states, of_weight = ctx.saved_tensors
        return (of_states * outputs[0]).to(of_states.dtype), None, of_weight.mul_(outputs[0])
