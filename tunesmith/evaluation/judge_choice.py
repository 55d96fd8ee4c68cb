"""Who may judge: any model that answers, but none that has a part in the comparison."""

from __future__ import annotations

from collections.abc import Sequence

from tunesmith.errors import InvalidArgument
from tunesmith.evaluation.same_model import identity_of, root_of
from tunesmith.models.answering import answering_reference
from tunesmith.models.references import Reference
from tunesmith.workspace import Workspace

_ADVICE = "Give another model as judge, best one that is stronger than all compared ones; or leave judge out."


def check_judge(
    workspace: Workspace,
    model: str,
    base_url: str | None,
    contestants: Sequence[tuple[str, Reference]],
    ollama_host: str | None = None,
) -> Reference:
    """Understand who is to judge, and refuse whoever judges in their own cause; contacts nothing.

    A judge prefers what it would have written itself. So it may not be a contestant, nor share a contestant's base.

    Args:
        model: a model reference; with `base_url` also a bare name.
        contestants: labels and references of the compared models.

    Raises:
        InvalidArgument: it is a contestant, however written, or kin to one; and as `answering_reference`.
        NotFound, Conflict, NotSupported: as `answering_reference`.
    """
    judge = answering_reference(workspace, model, base_url)
    identity, root = identity_of(workspace, judge, ollama_host), root_of(workspace, judge)
    for label, reference in contestants:
        if identity_of(workspace, reference, ollama_host) == identity:
            raise InvalidArgument(f"The judge is the same model as {label!r}, which it would judge.", next=_ADVICE)
        if root is not None and root_of(workspace, reference) == root:
            raise InvalidArgument(
                f"The judge has the same base as {label!r} ({root}), and models prefer what they would have written.",
                next=_ADVICE,
            )
    return judge
