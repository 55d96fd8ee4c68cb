"""Packed rows without a mask: kept apart by their boundaries alone."""

import json
import subprocess
import sys

import pytest

from tests.training.conftest import arguments_for, make_rows, outcome
from tunesmith.errors import NotSupported
from tunesmith.machine.packages import numbers
from tunesmith.training.continuing import check_same_packing
from tunesmith.training.kernels import keeps_rows_apart
from tunesmith.training.saved import FILE, Looks, Saved

COMPARE = """
import json, sys
from pathlib import Path
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from tunesmith.training.engines import attention, head_loss
from tunesmith.training.engines.joined import REAL, Joining
from tunesmith.training.engines.parts import parts_of
from peft import LoraConfig, get_peft_model

base = Path(sys.argv[1])
attention.register()

def model_with(kind):
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(base, attn_implementation=kind, dtype=torch.float32)
    peft = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False))
    return peft.eval()

draw = torch.Generator().manual_seed(5)
rows = [torch.randint(3, 200, (length,), generator=draw).tolist() for length in (17, 5, 30, 9, 21)]
labels = [[-100] * 3 + row[3:] for row in rows]
trained = sum(len(row) - 3 for row in rows)

alone = model_with("sdpa")
apart = torch.zeros(())
for row, label in zip(rows, labels):
    one = {"input_ids": torch.tensor([row]), "labels": torch.tensor([label])}
    apart = apart + head_loss.loss_of(alone, one, trained)
apart.backward()
joined = model_with(attention.NAME)
sequences = [
    {"input_ids": sum(rows[:3], []), "labels": sum(labels[:3], []), "seq_lengths": [17, 5, 30]},
    {"input_ids": sum(rows[3:], []), "labels": sum(labels[3:], []), "seq_lengths": [9, 21]},
]
batch = Joining(length=128, longest=30, rows=8, filler=0)(sequences)
real = int(batch.pop(REAL))
together = head_loss.loss_of(joined, batch, trained)
together.backward()
in_parts = model_with(attention.NAME)
parts = parts_of({**batch, REAL: torch.tensor(real)}, 40)
counted = [int(part.pop(REAL)) for part in parts if REAL in part]
sum(head_loss.loss_of(in_parts, part, trained) for part in parts if (part["labels"] != -100).any()).backward()

def gradients(model):
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

print(json.dumps({
    "apart": float(apart), "together": float(together), "real": real, "counted": counted, "parts": len(parts),
    "shapes": [list(batch["input_ids"].shape), list(batch["row_ends"].shape)],
    "gradient": float((gradients(alone) - gradients(joined)).abs().max()),
    "gradient_in_parts": float((gradients(alone) - gradients(in_parts)).abs().max()),
    "largest": float(gradients(alone).abs().max()),
}))
"""
QWEN = {
    "model_type": "qwen2",
    "hidden_size": 3584,
    "num_attention_heads": 28,
    "sliding_window": 131072,
    "use_sliding_window": False,
}


@pytest.fixture(scope="module")
def compared(tiny_base):
    done = subprocess.run(
        [sys.executable, "-c", COMPARE, str(tiny_base)], check=True, capture_output=True, text=True, timeout=120
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_joined_rows_have_the_loss_and_the_gradients_of_rows_computed_one_by_one(compared):
    assert compared["together"] == pytest.approx(compared["apart"], rel=1e-5)
    assert compared["gradient"] < 1e-5 * compared["largest"] + 1e-7
    assert compared["real"] == 82


def test_a_joined_batch_taken_in_parts_gives_the_same_gradients_and_is_counted_once(compared):
    assert compared["parts"] > 2
    assert compared["gradient_in_parts"] < 1e-5 * compared["largest"] + 1e-7
    assert compared["counted"] == [82]


def test_all_joined_batches_are_alike_in_shape(compared):
    assert compared["shapes"] == [[1, 128], [8 + 5 + 1]]


@pytest.mark.parametrize(
    ("changed", "capability", "torch", "expected"),
    [
        ({}, 9.0, "2.11.0+cu130", True),
        ({}, None, "2.9.0", True),  # a CPU computes row by row
        ({}, 7.5, "2.13.0", False),
        ({}, 9.0, "2.10.1", False),
        ({"model_type": "gemma3"}, 9.0, "2.13.0", False),
        ({"use_sliding_window": True}, 9.0, "2.13.0", False),
        ({"model_type": "mistral", "sliding_window": None}, 8.9, "2.13.0", True),
        ({"head_dim": 100}, 9.0, "2.13.0", False),
    ],
)
def test_rows_are_joined_only_where_model_card_and_torch_allow(changed, capability, torch, expected):
    found = keeps_rows_apart({**QWEN, **changed}, capability=capability, torch=numbers(torch))
    assert found is expected


def test_packed_training_measures_the_held_out_loss_that_training_row_by_row_measures(
    workspace, new_dataset, tiny_base, start_worker
):
    dataset_id = new_dataset(make_rows(40))
    short = {"epochs": 1, "learning_rate": 1e-5, "dropout": 0.0}
    packed = {"packing": True, "max_length": 256, "batch_size": 2, "gradient_accumulation": 1}
    left = [
        outcome(*start_worker(arguments_for(workspace, dataset_id, tiny_base, **short, **more)))
        for more in ({}, packed)
    ]
    assert all("result" in found for found in left), left
    results = [found["result"] for found in left]
    before = [result["eval_loss"]["before"] for result in results]
    assert before[0] == pytest.approx(before[1], rel=1e-4)


LOADED = """
import json, sys
from pathlib import Path
from tunesmith.training.engines import transformers_engine
from tunesmith.training.recipe import Recipe

recipe = Recipe.model_validate(json.loads(sys.argv[2]))
loaded = [transformers_engine.load(Path(sys.argv[1]), recipe, "float32", joins) for joins in (None, True, False)]
print(json.dumps([one.joins for one in loaded]))
"""


def test_a_packed_training_goes_on_with_the_sequences_that_it_began_with(workspace, new_dataset, tiny_base, tmp_path):
    args = arguments_for(workspace, new_dataset(make_rows(24)), tiny_base, packing=True, max_length=128)
    command = [sys.executable, "-c", LOADED, str(tiny_base), json.dumps(args["recipe"])]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    assert json.loads(done.stdout.splitlines()[-1]) == [True, True, False]

    nothing = dict.fromkeys(
        ("run_id", "dataset_id", "dataset_sha256", "base_model", "base_fingerprint", "device", "dtype"), ""
    )
    numbers = {"step": 1, "total_steps": 2, "steps_per_epoch": 2, "prompt_format": {}, "recipe": {}, "recoveries": []}
    joined = Saved.model_validate({**nothing, **numbers, "joins": True, "looks": Looks()})
    earlier = joined.model_dump(exclude={"joins", "passes"})  # as the version before wrote it
    (tmp_path / FILE).write_text(json.dumps(earlier), encoding="utf-8")
    check_same_packing(False, Saved.read(tmp_path))
    check_same_packing(True, joined)
    with pytest.raises(NotSupported, match="packs its rows without a mask"):
        check_same_packing(False, joined)
