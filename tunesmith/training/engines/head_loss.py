"""Cross entropy of a causal model's scores without ever holding the scores of more than a few hundred tokens.

With a vocabulary of 150,000 the scores of 2,048 tokens are 1.2 GiB in 32 bits. TRL computes them in chunks too, but
twice (in the backward pass again), and adds the entropy over the vocabulary: 11 % (float32) to 18 % (bfloat16) of a
step's time on a CPU.
"""

from __future__ import annotations

from typing import Any

import torch

from tunesmith.training.examples import IGNORED
from tunesmith.training.kernels import LONGEST, PLAIN_MODELS, ROW_ENDS, TRAINED
from tunesmith.training.memory import LOGIT_TOKENS

CONTEXT = ("attention_mask", "position_ids", ROW_ENDS, LONGEST)  # what the blocks are told besides the tokens


def can_take(model: Any) -> bool:
    """Whether `loss_of` gives this model's loss: a PEFT model, not wrapped, with a plain frozen head."""
    if not hasattr(model, "get_base_model"):
        return False
    causal = model.get_base_model()
    head = causal.get_output_embeddings()
    return (
        getattr(causal.config, "model_type", None) in PLAIN_MODELS
        and type(head) is torch.nn.Linear
        and not head.weight.requires_grad
    )


def loss_of(model: Any, inputs: dict[str, Any], items: Any) -> torch.Tensor:
    """The loss of one micro-batch, scores computed only where a token is trained.

    Args:
        inputs: `input_ids` and `labels` [rows, tokens]; those of `CONTEXT` that are needed.
        items: trained tokens of the whole optimizer step, by which the sum is divided; None: those of this batch.
    """
    causal = model.get_base_model()
    context = {name: inputs[name] for name in CONTEXT if name in inputs}
    hidden = causal.base_model(input_ids=inputs["input_ids"], use_cache=False, **context).last_hidden_state
    head = causal.get_output_embeddings()
    states, wanted = answers(hidden, inputs)
    total: Any = SummedLoss.apply(states, wanted, head.weight, head.bias)
    return total / (items if items is not None else max(1, len(wanted)))


def answers(hidden: torch.Tensor, inputs: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """What the trained tokens are predicted from, [n, hidden], and the tokens, [n]."""
    if TRAINED in inputs:
        trained_at = inputs[TRAINED]
        return hidden[0, trained_at - 1], inputs["labels"][0, trained_at]
    labels = inputs["labels"][:, 1:]
    trained = labels != IGNORED
    return hidden[:, :-1][trained], labels[trained]


class SummedLoss(torch.autograd.Function):
    """Summed cross entropy of `states @ weight.T + bias`; the head is not trained.

    The gradient of the states is made along with the scores, so that these are computed once and not kept. It is at
    most as exact as the head's number format, in which the library's own would be multiplied too.
    """

    @staticmethod
    def forward(
        ctx: Any, states: torch.Tensor, wanted: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        """states [n, hidden], wanted [n], weight [vocabulary, hidden], bias [vocabulary] or None → a scalar."""
        total = torch.zeros((), dtype=torch.float32, device=states.device)
        gradient = torch.empty_like(states) if ctx.needs_input_grad[0] else None
        for start in range(0, len(wanted), LOGIT_TOKENS):
            part = slice(start, start + LOGIT_TOKENS)
            scores = torch.nn.functional.linear(states[part].to(weight.dtype), weight, bias)
            chances = torch.log_softmax(scores, dim=-1, dtype=torch.float32)
            del scores
            answer = wanted[part].unsqueeze(1)
            total -= chances.gather(1, answer).sum()
            if gradient is not None:
                chances.exp_()
                chances.scatter_add_(1, answer, chances.new_full((len(answer), 1), -1.0))
                gradient[part] = chances.to(weight.dtype) @ weight
            del chances  # before the next chunk's scores are made
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *outputs: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return (gradient * outputs[0]).to(gradient.dtype), None, None, None
