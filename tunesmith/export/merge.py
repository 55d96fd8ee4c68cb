"""A PEFT adapter put into the weights of its base: 16 or 32 bits, in CPU memory, never onto quantised weights.

The base's files are rewritten one matrix at a time, so memory holds one matrix and the adapter, however large the
model is. What is not a plain LoRA (DoRA, modules trained whole) PEFT merges in memory, as a whole.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.errors import NotSupported, OutOfMemory
from tunesmith.export import merge_whole
from tunesmith.export.adapter_weights import Change, NotPlain, put_adapter_on
from tunesmith.export.quality import Reference, TokenRow, compare_rows
from tunesmith.export.records import Divergence
from tunesmith.export.skeleton import Skeleton, skeleton
from tunesmith.export.streamed import Pass, Source, Unmeasured, Unreadable, evaluator, plan_pass
from tunesmith.export.trained_base import four_bit_source, rounded_layers
from tunesmith.models.tokenizer_files import copy_tokenizer

if TYPE_CHECKING:
    import torch

    from tunesmith.models.prompt_format import PromptFormat

COPIED = ("config.json", "generation_config.json")
# About what q4_k_m costs; from here on the user is told.
LARGE_TRAINED_KLD = 0.05

Check = Callable[[], None]


@dataclass(frozen=True)
class Merged:
    """What merging left.

    Attributes:
        divergence: of the merged weights as saved from base plus adapter; None without rows, or where it cannot be
            measured here.
        reference: the merged weights' distributions, for the GGUF files to be held against; None as `divergence`.
        trained: divergence of base plus adapter from what was trained, the base in 4 bits plus adapter; None where
            it was trained otherwise, or where it cannot be computed here.
        notes: what could not be measured and why, in sentences for the user.
    """

    divergence: Divergence | None
    reference: Reference | None
    trained: Divergence | None = None
    notes: list[str] = field(default_factory=list)


def check_base(config: dict[str, Any], base_model: str) -> None:
    """Refuse a base whose weights are quantised: an adapter merged into 4 bits loses what it learned.

    Raises:
        NotSupported: it is quantised.
    """
    if config.get("quantization_config"):
        method = config["quantization_config"].get("quant_method", "unknown")
        raise NotSupported(
            f"The weights of {base_model} are quantised ({method}); an adapter is merged into 16-bit weights only.",
            next="Train on the 16-bit version of the same base (method qlora quantises it while training), "
            "or call export_gguf with adapter_only=true.",
        )


def merge(
    base: Path,
    adapter: Path,
    output: Path,
    *,
    prompt_format: PromptFormat,
    rows: Sequence[TokenRow],
    scratch: Path,
    check: Check,
    written: Callable[[], None] = lambda: None,
    trained_in: str | None = None,
) -> Merged:
    """Write base plus adapter as an ordinary Hugging Face folder.

    Args:
        base: folder with config and 16- or 32-bit safetensors.
        adapter: folder with a PEFT adapter and the tokenizer's files.
        output: an existing, empty folder.
        rows: texts to compare on; none: nothing is compared.
        scratch: an existing folder for the recorded distributions.
        check: called between steps; raises when the run was cancelled.
        written: called when the folder is whole, before its weights are compared.
        trained_in: where method qlora trained the adapter, the number format it computed in, such as "bfloat16".

    Raises:
        BadInput: the adapter cannot be read, or does not belong to this base.
        CheckFailed: the merged weights hold NaN.
        OutOfMemory: the adapter is no plain LoRA and the model does not fit into memory as a whole.
    """
    bones = skeleton(base)
    four_bit = rounded_layers(bones) if trained_in else set()
    work = _Merging(base, adapter, output, prompt_format, scratch, check, list(rows), written)
    try:
        model, changes = put_adapter_on(bones, adapter)
    except NotPlain:
        return work.as_a_whole()
    return work.in_pieces(_Pieces(bones, model, changes, four_bit), trained_in)


def record_whole(
    folder: Path, rows: Sequence[TokenRow], scratch: Path, check: Check, notes: list[str] | None = None
) -> Reference | None:
    """The distributions of whole weights: merged before, or trained as such.

    Args:
        notes: takes the reason where they cannot be measured here, and None is returned.
    """
    try:
        return _record_folder(folder, rows, scratch / "after-merging", check)
    except Unmeasured as reason:
        if notes is not None:
            notes.append(_not_compared(reason))
        return None


@dataclass(frozen=True)
class _Pieces:
    """A model that can be merged matrix by matrix.

    Attributes:
        model: PEFT's, around that of `bones`.
        changes: tensor of the base → what is added to it.
        four_bit: the layers that method qlora rounds.
    """

    bones: Skeleton
    model: Any
    changes: dict[str, Change]
    four_bit: set[torch.nn.Module]


@dataclass
class _Merging:
    """One merge under way."""

    base: Path
    adapter: Path
    output: Path
    prompt_format: PromptFormat
    scratch: Path
    check: Check
    rows: list[TokenRow]
    written: Callable[[], None]
    notes: list[str] = field(default_factory=list)

    def in_pieces(self, pieces: _Pieces, trained_in: str | None) -> Merged:
        """Matrix by matrix."""
        before, plan, trained = None, None, None
        if self.rows:
            try:
                before, plan = self._before(pieces)
            except Unmeasured as reason:
                self.notes.append(_not_compared(reason))
        if before is not None and trained_in is not None:
            trained = self._from_trained(pieces, trained_in, before, plan)
        changes, files = pieces.changes, pieces.bones.files
        files.write_like(self.output, lambda name, weight: changes[name].applied_to(weight), set(changes), self.check)
        for name in COPIED:
            if (self.base / name).is_file():
                shutil.copyfile(self.base / name, self.output / name)
        return self._compared(before, plan, trained)

    def as_a_whole(self) -> Merged:
        """By PEFT, in memory."""
        model = merge_whole.load_with_adapter(self.base, self.adapter)
        stored, before = model.dtype, None
        if self.rows:
            try:
                before = merge_whole.record(model, self.rows, self.scratch / "before-merging", self.check)
            except Unmeasured as reason:
                self.notes.append(_not_compared(reason))
        merge_whole.write_merged(model, self.output, stored)
        del model
        return self._compared(before, None, None)

    def _compared(self, before: Reference | None, plan: Pass | None, trained: Divergence | None) -> Merged:
        """The end of both ways: the tokenizer, and the merged weights as they were saved against those before."""
        copy_tokenizer((self.adapter, self.base), self.output, self.prompt_format)
        self.check()
        self.written()
        if before is None:
            return Merged(None, None, None, self.notes)
        try:
            place = self.scratch / "after-merging"
            after = _record_folder(self.output, before.rows, place, self.check, plan, all_rows=True)
        except Unmeasured as reason:
            self.notes.append(_not_compared(reason))
            return Merged(None, None, trained, self.notes)
        return Merged(compare_rows(before, _replay(after)), after, trained, self.notes)

    def _before(self, pieces: _Pieces) -> tuple[Reference, Pass | None]:
        """The distributions of base plus adapter, and how they were read: None where the model was in memory."""
        place = self.scratch / "before-merging"
        if not pieces.bones.missing:
            plan = plan_pass(pieces.bones, self.rows)
            try:
                return self._record(pieces, plan, place), plan
            except Unreadable:
                shutil.rmtree(place)
        whole = _in_memory(lambda: merge_whole.load_with_adapter(self.base, self.adapter))
        return merge_whole.record(whole, self.rows, place, self.check), None

    def _from_trained(
        self, pieces: _Pieces, trained_in: str, before: Reference, plan: Pass | None
    ) -> Divergence | None:
        """How far 16-bit base plus adapter is from 4-bit base plus adapter."""
        place = self.scratch / "as-trained"
        try:
            if plan is None:
                raise Unmeasured("the model cannot be read layer by layer")
            source = four_bit_source(pieces.bones, pieces.four_bit, trained_in, plan.device)
            # In one batch: rounding to 4 bits takes longer than padding costs.
            as_trained = self._record(pieces, Pass(plan.device, [plan.rows]), place, source)
            found = compare_rows(as_trained, _replay(before))
        except Unmeasured as reason:
            self.notes.append(f"The 16-bit base was not compared with the 4-bit one of the training: {reason}.")
            return None
        finally:
            shutil.rmtree(place, ignore_errors=True)
        if found.mean_kld > LARGE_TRAINED_KLD:
            self.notes.append(
                f"The adapter was trained on the base in 4 bits and is served on it in 16, which differ by "
                f"{found.mean_kld:.3g} nats on the answers (perplexity ratio {found.perplexity_ratio:.3g}; below 1 the "
                "served model is the better one). If answers are worse than in training, train with method lora."
            )
        return found

    def _record(self, pieces: _Pieces, plan: Pass, place: Path, source: Source | None = None) -> Reference:
        return Reference.record(place, plan.rows, evaluator(pieces.bones, pieces.model, plan, self.check, source))


def _record_folder(
    folder: Path,
    rows: Sequence[TokenRow],
    place: Path,
    check: Check,
    plan: Pass | None = None,
    *,
    all_rows: bool = False,
) -> Reference:
    """The distributions of the weights in a folder.

    Args:
        plan: how another model read these rows; default: as is best.
        all_rows: leave none out, and keep their order.

    Raises:
        Unmeasured: memory or time does not suffice.
    """
    bones = skeleton(folder)
    if not bones.missing:
        plan = plan or plan_pass(bones, rows, all_rows=all_rows)
        try:
            return Reference.record(place, plan.rows, evaluator(bones, bones.model, plan, check))
        except Unreadable:
            shutil.rmtree(place)
    whole = _in_memory(lambda: merge_whole.load(folder))
    return merge_whole.record(whole, rows, place, check, all_rows=all_rows)


def _in_memory(load: Callable[[], Any]) -> Any:
    try:
        return load()
    except OutOfMemory as error:
        raise Unmeasured(error.message.rstrip(".")) from error


def _not_compared(reason: Unmeasured) -> str:
    return f"The merged weights were not compared with base plus adapter, nor the files with them: {reason}."


def _replay(reference: Reference) -> Callable[[list[int], list[int]], Iterator[Any]]:
    """What was recorded, as if the model computed it again."""
    recorded = reference.logprobs()

    def evaluate(_ids: list[int], positions: list[int]) -> Iterator[Any]:
        for _ in positions:
            yield next(recorded)

    return evaluate
