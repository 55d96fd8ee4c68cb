from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.evaluation.conftest import make_dataset, part_rows
from tests.warm_workers import run_script
from tunesmith.data.records import Dataset
from tunesmith.errors import Conflict, StoreCorrupt
from tunesmith.evaluation.ask import ask_model
from tunesmith.evaluation.contestants import contestant
from tunesmith.models.bases import prompt_format_for
from tunesmith.models.embedded import gguf_path
from tunesmith.models.records import ModelRecord
from tunesmith.models.serving import child_environment
from tunesmith.models.store import ModelStore, describe_file
from tunesmith.work import Work
from tunesmith.workspace import Workspace

TESTS = Path(__file__).parents[1]
QUESTION, ANSWER = "What is part 1 for?", "Part 1 holds the lid."


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny base and an adapter on it; built in processes of their own, so that torch stays out."""
    root = tmp_path_factory.mktemp("built")
    run_script(TESTS / "training/tiny_model.py", str(root / "base"))
    workspace = Workspace(root / "ws", [root])
    rows = [{"question": row.instruction, "answer": row.output} for row in part_rows(5, 7)]
    order = {
        "prompt_format": prompt_format_for(workspace, str(root / "base")).as_record(),
        "question": QUESTION,
        "answer": ANSWER,
        "rows": rows,
    }
    (root / "order.json").write_text(json.dumps(order), encoding="utf-8")
    said = run_script(TESTS / "evaluation/tiny_adapter.py", str(root), str(root / "order.json"))
    (root / "losses.json").write_text(said.splitlines()[-1])
    return root


@pytest.fixture
def workspace(tmp_path: Path, built: Path) -> Workspace:
    return Workspace(tmp_path / "workspace", [tmp_path, built])


def add_model(
    workspace: Workspace, built: Path, *, dataset: Dataset | None = None, training: dict | None = None
) -> ModelRecord:
    store, base = ModelStore(workspace), str(built / "base")
    record = store.new(
        name="tiny",
        base_model=base,
        method="lora",
        prompt_format=prompt_format_for(workspace, base).as_record(),
        recipe={"rank": 16, "max_length": 256},
        dataset_id=dataset.dataset_id if dataset else None,
        training=training,
    )
    folder = store.folder(record.model_id)
    shutil.copytree(built / "adapter", folder / "adapter")
    return store.update(record.model_id, add_files=[describe_file(folder, folder / "adapter", "adapter")])


def compare_in_child(work: Work) -> dict:
    """Run the worker as the server does: torch is loaded there and nowhere else."""
    done = subprocess.run(
        [sys.executable, "-m", "tunesmith.evaluation.worker", str(work.run_dir)],
        env=child_environment(), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    content = json.loads((work.run_dir / "result.json").read_text(encoding="utf-8"))
    assert done.returncode == 0, content
    return content["result"]


@pytest.mark.slow
def test_a_model_without_gguf_answers_what_its_adapter_learned(workspace: Workspace, built: Path) -> None:
    model = add_model(workspace, built).model_id
    result = ask_model(workspace, model, QUESTION, max_tokens=40)
    assert (result.reply, result.finish_reason) == (ANSWER, "stop")


@pytest.mark.slow
def test_asking_a_model_without_gguf_loads_no_torch_here(workspace: Workspace, built: Path, tmp_path: Path) -> None:
    script = textwrap.dedent("""
        import sys
        from pathlib import Path
        from tunesmith.evaluation.ask import ask_model
        from tunesmith.workspace import Workspace
        root, *readable = map(Path, sys.argv[3:])
        result = ask_model(Workspace(root, readable), sys.argv[1], sys.argv[2], max_tokens=40)
        print(result.reply, "torch" in sys.modules)
    """)
    model = add_model(workspace, built).model_id
    folders = [str(workspace.root), str(tmp_path), str(built)]
    command = [sys.executable, "-c", script, model, QUESTION, *folders]
    done = subprocess.run(command, env=child_environment(), capture_output=True, text=True, timeout=120, check=False)
    assert (done.stdout.strip(), done.returncode) == (f"{ANSWER} False", 0), done.stderr


@pytest.mark.slow
def test_base_and_adapter_are_compared_and_their_held_out_losses_measured(
    workspace: Workspace, built: Path, new_work: Callable[..., Work]
) -> None:
    dataset = make_dataset(workspace, train=4, held_out=3)
    model = add_model(workspace, built, dataset=dataset).model_id
    models = [{"label": "base", "model": str(built / "base")}, {"label": "tuned", "model": model}]
    asked = [{"question": QUESTION, "reference": ANSWER}, {"question": "And part 2?", "reference": "Part 2 is a lid."}]
    result = compare_in_child(new_work(models=models, questions=asked, max_tokens=40))
    base, tuned = result["models"]
    assert result["samples"][0]["replies"]["tuned"] == ANSWER
    assert result["samples"][0]["replies"]["base"] != ANSWER
    plain = json.loads((built / "losses.json").read_text())
    assert base["heldout_loss"] == pytest.approx(plain["base"], abs=2e-3)
    assert tuned["heldout_loss"] == pytest.approx(plain["tuned"], abs=2e-3)
    assert abs(plain["base"] - plain["tuned"]) > 0.1
    for score in (base, tuned):
        assert score["heldout"]["source"] == "measured"
        assert score["heldout"]["rows"] == 3
        assert score["heldout"]["perplexity"] == pytest.approx(math.exp(score["heldout_loss"]), rel=1e-3)
    answers = [f"Part {n} holds the lid of the grey box number {n} shut.<|im_end|>" for n in (5, 6, 7)]
    tokens = sum(len(text.encode()) - len(b"<|im_end|>") + 1 for text in answers)
    assert base["heldout"]["tokens"] == tuned["heldout"]["tokens"] == tokens
    assert result["lineage"]["heldout_dataset_id"] == dataset.dataset_id


def test_what_the_training_run_measured_on_these_rows_is_not_measured_again(
    workspace: Workspace, built: Path, new_work: Callable[..., Work]
) -> None:
    dataset = make_dataset(workspace, train=4, held_out=3)
    figures = {
        "eval_loss": {"before": 2.5, "after": 1.25, "best": 1.25},
        "rows": {"train": 4, "eval": 3, "cut": 0},
        "eval_rows_measured": 3,
    }
    model = add_model(workspace, built, dataset=dataset, training=figures)
    folder = workspace.models / model.model_id
    shutil.copy(gguf_path(), folder / "tiny-q8_0.gguf")
    ModelStore(workspace).update(
        model.model_id, add_files=[describe_file(folder, folder / "tiny-q8_0.gguf", "gguf", "q8_0")]
    )
    from tunesmith.evaluation.heldout import taken_from_runs
    from tunesmith.evaluation.questions import held_out_rows

    rows = held_out_rows(workspace, dataset.dataset_id)
    pair = [contestant(workspace, "base", str(built / "base")), contestant(workspace, "tuned", model.model_id)]
    assert pair[1].gguf is not None
    taken = taken_from_runs(pair, rows, dataset.dataset_id)
    assert taken is not None
    assert (taken["base"].loss, taken["tuned"].loss) == (2.5, 1.25)
    assert taken["tuned"].origin.source == "training_run"
    # Other rows, or another base: then the figures are not of the same thing.
    assert taken_from_runs(pair, rows[:2], dataset.dataset_id) is None
    assert taken_from_runs([contestant(workspace, "base", "embedded"), pair[1]], rows, dataset.dataset_id) is None


def test_a_model_with_nothing_to_run_says_how_to_export_it(workspace: Workspace, built: Path) -> None:
    record = add_model(workspace, built)
    ModelStore(workspace).update(record.model_id, remove_files=["adapter"])
    with pytest.raises(Conflict, match="neither a GGUF nor an adapter"):
        contestant(workspace, "x", record.model_id)
    record = add_model(workspace, built)
    shutil.rmtree(workspace.models / record.model_id / "adapter")
    with pytest.raises(StoreCorrupt, match="adapter of model"):
        contestant(workspace, "x", record.model_id)
