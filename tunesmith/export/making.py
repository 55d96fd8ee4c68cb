"""The GGUF files of one model: converted, quantised with or without an importance matrix, measured, asked.

Coarse files are made twice where the matrix can be had, and the one that is nearer to the model is kept: a matrix
helps most models most of the time, not each one always.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.errors import CheckFailed
from tunesmith.export import gguf
from tunesmith.export.adapter_kept import Changed, note_on, sample_changes, share_kept
from tunesmith.export.child import ChildFailed
from tunesmith.export.handing_out import MadeFile
from tunesmith.export.importance import Importance, collect
from tunesmith.export.llama_job import run_job
from tunesmith.export.narrow_rows import better_types
from tunesmith.export.quality import Reference, TokenRow, judge
from tunesmith.export.quantizations import QUANTIZATIONS
from tunesmith.export.records import Divergence, MatrixTrial
from tunesmith.machine.records import LlamaCpp

TRIAL_PART = 3  # a third of the rows decides which of two files is the better one


@dataclass
class FileMaker:
    """Makes the files of one export.

    Attributes:
        tools: llama.cpp's parts.
        converter: its converter, started.
        weights: folder of the merged or trained weights.
        base: folder of what an adapter was merged into; None: nothing was.
        kind: what they are, for people: merged or trained.
        name: the model's name, kept inside each file.
        reference: what the files are held against; None: nothing is measured.
        calibration: training rows for an importance matrix; none: there is none.
        scratch: a folder for what is made on the way.
        say: told what is being done.
        check: called often; raises when the run was cancelled.
        notes: takes what was left out, and why.
        begun: the file that the converter is writing already.
    """

    tools: LlamaCpp
    converter: gguf.Converter
    weights: Path
    base: Path | None
    kind: str
    name: str
    reference: Reference | None
    calibration: Sequence[TokenRow]
    scratch: Path
    say: Callable[[str], None]
    check: Callable[[], None]
    notes: list[str]
    begun: Path | None = None
    _source: Path | None = None
    _matrix: Importance | None = None
    _looked: bool = False
    _changes: list[Changed] | None = None

    def convert(self, path: Path, outtype: str) -> None:
        """Write the weights as one 16-bit GGUF."""
        self.say(f"Converting to GGUF ({outtype})")
        if self.begun != path:
            self.converter.begin(self.weights, path, outtype, name=self.name)
        self.begun = None
        self.converter.finish(self.check)

    def source(self, path: Path) -> Path:
        """The f16 file that coarser ones are made from: written to `path` when first asked for."""
        if self._source is None:
            self.convert(path, "f16")
            self._source = path
        return self._source

    def quantise(self, source: Path, path: Path, quantization: str) -> MadeFile:
        """Write `source` to `path` in a coarser precision, the better way of two, and judge it.

        Raises:
            CheckFailed: it is too far from the model.
        """
        self.say(f"Quantising to {quantization}")
        gguf.quantise(self.tools, source, path, quantization, check=self.check)
        if QUANTIZATIONS[quantization].falls_back:
            self._better_types(source, path, quantization)
        if self.reference is None:
            return MadeFile(path, quantization)
        self._look_at_changes(source)
        matrix = self._importance(source) if QUANTIZATIONS[quantization].guided else None
        found, trial = (None, None) if matrix is None else self._try_guided(source, path, quantization, matrix)
        found = found or self._divergence(path, quantization)
        judge(quantization, found)
        kept = share_kept(self._changes or [], path)
        if (told := note_on(quantization, kept)) is not None:
            self.notes.append(told)
        return MadeFile(path, quantization, found, trial, kept)

    def _look_at_changes(self, source: Path) -> None:
        if self._changes is None:
            self._changes = [] if self.base is None else sample_changes(self.base, self.weights, source)

    def _better_types(self, source: Path, path: Path, quantization: str) -> None:
        """Quantise again where llama.cpp's types for narrow rows are not the nearest to these weights."""
        types = better_types(source, path)
        if not types:
            return
        other = self.scratch / f"nearer-{path.name}"
        try:
            gguf.quantise(self.tools, source, other, quantization, check=self.check, types=types)
        except CheckFailed as failure:
            # A quantiser that cannot be told types, or another version of the binding. The first file is sound.
            other.unlink(missing_ok=True)
            self.notes.append(
                f"{quantization} was left as llama.cpp makes it: {failure.message.splitlines()[-1][:200]}"
            )
            return
        other.replace(path)

    def measure(self, path: Path, quantization: str) -> MadeFile:
        """A file that was converted, with its divergence, judged."""
        if self.reference is None:
            return MadeFile(path, quantization)
        found = self._divergence(path, quantization)
        judge(quantization, found)
        return MadeFile(path, quantization, found)

    def _divergence(self, path: Path, quantization: str) -> Divergence:
        return Divergence.model_validate(self._measured(path, quantization))

    def _measured(self, path: Path, quantization: str, **more: Any) -> dict[str, Any]:
        assert self.reference is not None
        self.say(f"Comparing {quantization} with the {self.kind} weights")
        order = {"model": str(path), "reference": str(self.reference.folder), "threads": gguf.threads(), "gpu": False}
        try:
            return run_job("measure", {**order, **more}, check=self.check)
        except ChildFailed as failure:
            raise gguf.failed(failure, f"comparing {quantization} with the model") from failure

    def _try_guided(
        self, source: Path, path: Path, quantization: str, matrix: Importance
    ) -> tuple[Divergence | None, MatrixTrial | None]:
        """Quantise again with the matrix; `path` is the better file afterwards.

        The first rows decide. All rows are read of the file with the matrix, which is mostly the better one: its
        divergence is returned where it is.
        """
        other = self.scratch / f"guided-{path.name}"
        without = self._measured(path, quantization, part=TRIAL_PART, only=True)["first"]
        self.say(f"Quantising to {quantization} with an importance matrix")
        try:
            gguf.quantise(self.tools, source, other, quantization, check=self.check, matrix=matrix.file)
            found = self._measured(other, quantization, part=TRIAL_PART)
        except CheckFailed as failure:
            # The plain file is sound; what failed is the attempt to better it.
            other.unlink(missing_ok=True)
            self._matrix = None
            self.notes.append(f"No importance matrix was used: {failure.message.splitlines()[-1][:200]}")
            return None, None
        used = found["first"] < without
        trial = MatrixTrial(used=used, kld_with=found.pop("first"), kld_without=without, tokens=matrix.tokens)
        if not used:
            other.unlink()
            return None, trial
        other.replace(path)
        return Divergence.model_validate(found), trial

    def _importance(self, source: Path) -> Importance | None:
        if not self._looked and self.calibration:
            self.say("Collecting an importance matrix from training rows")
            output = self.scratch / "importance.gguf"
            self._matrix = collect(self.weights, source, self.calibration, output, check=self.check)
        self._looked = True
        return self._matrix
