from __future__ import annotations

import subprocess
import sys

import pytest

from tests.training.conftest import make_rows
from tunesmith.data.store import DatasetStore
from tunesmith.errors import DoesNotFit, InvalidArgument, MissingExtra, NotFound, NotSupported, UserError
from tunesmith.machine.records import (
    Gpu,
    GpuProcess,
    LlamaCpp,
    MachineReport,
    OllamaFacts,
    PackageFacts,
    Recommendation,
    TorchFacts,
)
from tunesmith.models.bases import base_config, prompt_format_for, tokenizer_for
from tunesmith.models.catalogue import find
from tunesmith.training import history
from tunesmith.training.examples import tokenise
from tunesmith.training.memory import Shape
from tunesmith.training.planning import plan, start_arguments
from tunesmith.training.recipe import parse_options
from tunesmith.training.records import AssumedGpu
from tunesmith.training.token_estimate import estimated

CARD_8 = AssumedGpu(name="RTX 4060", total_gib=8, compute_capability="8.9")
CARD_80 = AssumedGpu(total_gib=80)


def machine(*, cuda: str | None = "13.0", packages: tuple[str, ...] = (), held: float = 0.0) -> MachineReport:
    installed = PackageFacts(version="1.0", ok=True, problem=None, fix=None)
    card = Gpu(
        index=0,
        name="Test card",
        compute_capability="8.9",
        total_gib=24,
        free_gib=24 - held,
        bf16=True,
        processes=[GpuProcess(pid=77, name="ollama", gib=held)] if held else [],
    )
    return MachineReport(
        python="3.11",
        platform="Linux",
        torch=TorchFacts(installed=True, version="2.13", cuda=cuda),
        gpus=[card],
        packages=dict.fromkeys(packages, installed),
        ollama=OllamaFacts(reachable=False, version=None, loaded=[]),
        llama_cpp=LlamaCpp(converter=None, lora_converter=None, quantizer=None, runtime=None, source=None),
        ram_free_gib=16,
        disk_free_gib=100,
        can_train=True,
        recommended=Recommendation(engine="transformers", base_model="embedded", method="lora", reason="-"),
        problems=[],
    )


@pytest.fixture
def planned(workspace, new_dataset, tiny_base):
    dataset_id = new_dataset(make_rows(60))

    def make(base=str(tiny_base), *, rows=None, assume_gpu=None, machine=None, estimate=False, **options):
        chosen = dataset_id if rows is None else new_dataset(rows)
        return plan(
            workspace,
            chosen,
            base,
            parse_options(options),
            assume_gpu=assume_gpu,
            machine=machine,
            estimate=estimate,
        )

    return make


def test_a_plan_resolves_every_field_and_says_why(planned):
    found = planned()
    assert found.engine == "transformers"
    assert found.recipe.method == "lora"
    assert (found.recipe.rank, found.recipe.alpha, found.recipe.learning_rate) == (16, 32, 2e-4)
    assert found.recipe.max_grad_norm == 0.3
    assert found.rows.train + found.rows.eval == 60
    missing = set(type(found.recipe).model_fields) - set(found.reasons)
    assert missing <= {"max_steps", "memory_budget_gib"}
    assert found.eta_s is None
    assert found.memory.low_gib < found.memory.predicted_peak_gib < found.memory.high_gib
    assert "uncalibrated" in found.memory.calibration
    parts = found.memory.breakdown.model_dump().values()
    assert sum(parts) == pytest.approx(found.memory.predicted_peak_gib, abs=0.01)


@pytest.mark.parametrize(("count", "low", "high"), [(60, 5, 8), (300, 3, 5), (900, 2, 3), (2600, 1, 2)])
def test_epochs_follow_the_number_of_rows(planned, count, low, high):
    assert low <= planned(rows=make_rows(count)).recipe.epochs <= high


def test_max_length_is_taken_from_the_rows_and_none_is_cut(planned):
    found = planned()
    assert found.rows.cut == 0
    assert found.recipe.max_length < 512
    assert "none is cut" in found.reasons["max_length"]


def test_rows_that_are_cut_are_counted_and_warned_of(planned):
    found = planned(rows=make_rows(20, answer="word " * 40), max_length=128)
    assert found.rows.cut == 20
    assert any("20 of 20 rows" in warning for warning in found.warnings)


def test_tokens_are_counted_with_their_padding(planned):
    whole = planned(epochs=1, batch_size=4, gradient_accumulation=1)
    assert whole.tokens.real <= whole.tokens.total
    assert whole.tokens.padding_share == pytest.approx(1 - whole.tokens.real / whole.tokens.total, abs=1e-3)
    half = planned(epochs=1, batch_size=4, gradient_accumulation=1, max_steps=whole.steps // 2)
    assert half.steps == whole.steps // 2
    assert 0.35 < half.tokens.real / whole.tokens.real < 0.65


def test_joined_sequences_are_counted_as_they_are_filled_up(planned):
    packed = planned(epochs=2, packing=True, max_length=128, batch_size=4, gradient_accumulation=2)
    assert packed.tokens.real < packed.tokens.total
    assert packed.tokens.total % (2 * 4 * 128) == 0
    assert packed.tokens.padding_share == pytest.approx(1 - packed.tokens.real / packed.tokens.total, abs=1e-3)


def test_given_values_are_kept(planned):
    given = {
        "epochs": 1.5,
        "batch_size": 3,
        "gradient_accumulation": 2,
        "rank": 4,
        "seed": 1,
        "optimizer": "adamw_torch",
    }
    recipe = planned(**given).recipe
    assert {name: getattr(recipe, name) for name in given} == given
    assert recipe.alpha == 8


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"method": "qlora"}, "qlora"),
        ({"engine": "unsloth"}, "unsloth"),
        ({"optimizer": "adamw_8bit"}, "adamw_8bit"),
    ],
)
def test_what_this_machine_cannot_do_is_refused_by_name_with_a_next_step(planned, options, word):
    with pytest.raises(NotSupported, match=word) as caught:
        planned(**options)
    assert caught.value.next


def test_a_missing_package_names_its_extra(planned):
    with pytest.raises(MissingExtra, match="unsloth"):
        planned(machine=machine(), engine="unsloth")
    with pytest.raises(MissingExtra, match="bitsandbytes"):
        planned(machine=machine(), method="qlora")


def test_a_card_is_used_when_torch_can_and_what_holds_its_memory_is_named(planned):
    on_card = planned(machine=machine(packages=("unsloth", "bitsandbytes"), held=10))
    assert (on_card.device, on_card.engine, on_card.recipe.optimizer) == ("cuda", "transformers", "adamw_torch")
    assert on_card.recipe.packing
    assert on_card.memory.budget_gib == pytest.approx(14 * 0.95 - 0.5, abs=0.01)  # CUDA's context
    assert any("pid 77" in warning and "ollama stop" in warning for warning in on_card.warnings)
    without = planned(machine=machine(cuda=None))
    assert without.device == "cpu"
    assert any("no CUDA" in warning for warning in without.warnings)


def test_seven_billion_on_eight_gib_is_planned_in_four_bits_and_on_eighty_in_sixteen(planned):
    base = "Qwen/Qwen2.5-7B-Instruct"
    from tunesmith.models import catalogue

    assert catalogue.find(base) is not None
    small, large = plan_shape(base, CARD_8), plan_shape(base, CARD_80)
    assert small == ("qlora", "on")
    assert large == ("lora", "off")


def plan_shape(base, card):
    """(method, recomputation) chosen for a catalogue base; its tokenizer is not at hand here, so rows are assumed."""
    from tunesmith.models import catalogue
    from tunesmith.training import memory
    from tunesmith.training.examples import Example, SplitRows
    from tunesmith.training.fitting import resolve
    from tunesmith.training.hardware import find_hardware
    from tunesmith.training.job import Job
    from tunesmith.training.records import PlannedBase

    known = catalogue.find(base)
    assert known is not None
    job = Job(
        base_model=base,
        base_reason="-",
        base=PlannedBase(
            parameters_b=7.6, licence=None, languages=[], gated=False, here=True, download_gb=None, named=True
        ),
        shape=memory.Shape.from_config(known.config()),
        hardware=find_hardware(None, card, None),
        split=SplitRows([], [], "-"),
        train=[Example(f"r{n}", [], [], 300) for n in range(400)],
        eval=[],
    )
    choices, _ = resolve(parse_options({}), job)
    return choices.values["method"], choices.values["gradient_checkpointing"]


def test_what_is_said_to_fit_fits_when_it_is_planned(planned):
    given = {"memory_budget_gib": 0.915, "batch_size": 64, "gradient_checkpointing": "off", "rank": 64}
    tight = planned(**given)
    assert not tight.memory.fits
    ways = [other for other in tight.alternatives if other.fits]
    assert len(ways) >= 2
    for way in ways:
        again = planned(**{**given, **way.recipe})
        assert again.memory.fits
        assert again.memory.predicted_peak_gib == pytest.approx(way.predicted_peak_gib, abs=0.011)
    with pytest.raises(DoesNotFit) as caught:
        start_arguments(tight)
    assert ways[0].change in caught.value.next


def test_a_base_that_does_not_fit_well_names_smaller_ones_that_do(planned):
    sold_as_eight = AssumedGpu(total_gib=7.7)
    found = planned("Qwen/Qwen2.5-7B-Instruct", assume_gpu=sold_as_eight, estimate=True)
    assert any("It is tight" in warning for warning in found.warnings)
    bases = {other.base_model: other for other in found.alternatives if other.base_model}
    assert list(bases) == ["Qwen/Qwen2.5-3B-Instruct", "Qwen/Qwen3-4B-Instruct-2507"]
    assert all(other.fits for other in bases.values())
    assert "research" in bases["Qwen/Qwen2.5-3B-Instruct"].cost
    tiny = planned("Qwen/Qwen2.5-7B-Instruct", assume_gpu=AssumedGpu(total_gib=4), estimate=True)
    assert not tiny.memory.fits
    assert [other.base_model for other in tiny.alternatives if other.fits] == ["Qwen/Qwen2.5-1.5B-Instruct"]


def test_a_known_base_out_of_reach_is_planned_with_estimated_tokens_and_not_started(planned):
    with pytest.raises(UserError):
        planned("Qwen/Qwen2.5-7B-Instruct", assume_gpu=CARD_8)
    found = planned("Qwen/Qwen2.5-7B-Instruct", assume_gpu=CARD_8, estimate=True)
    assert found.tokens.estimated
    assert any("estimated from characters" in warning for warning in found.warnings)
    assert (found.base.here, found.base.named, found.base.download_gb) == (False, True, 15.2)
    assert "15.2 GB" in found.reasons["base_model"]


def test_gigabytes_are_fetched_only_for_a_base_that_was_named(planned):
    auto = planned("auto", assume_gpu=CARD_8, estimate=True)
    assert auto.base_model == "Qwen/Qwen3-4B-Instruct-2507"
    assert "when you name it" in auto.reasons["base_model"]
    here = auto.model_copy(update={"assumed_gpu": False, "tokens": auto.tokens.model_copy(update={"estimated": False})})
    with pytest.raises(NotFound) as caught:
        start_arguments(here)
    assert 'base_model="Qwen/Qwen3-4B-Instruct-2507"' in caught.value.next
    named = here.model_copy(update={"base": here.base.model_copy(update={"named": True})})
    assert start_arguments(named)["download"]


@pytest.mark.parametrize(
    ("written", "meant"), [("qwen2.5:7b", "Qwen/Qwen2.5-7B-Instruct"), ("ollama:qwen3:4b", "Qwen/Qwen3-4B")]
)
def test_a_base_that_is_written_otherwise_is_guessed(planned, written, meant):
    with pytest.raises(InvalidArgument) as caught:
        planned(written)
    assert meant in caught.value.next


def test_a_base_that_sees_is_refused_before_anything_is_started(planned):
    with pytest.raises(NotSupported, match="also sees pictures"):
        planned("google/gemma-3-4b-it", assume_gpu=CARD_80, estimate=True)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"epochs": 0.01}, "ends after 1 step:"),
        ({"eval_steps": 9999}, "eval_steps=9999 is more than the run has"),
        ({"save_steps": 9999}, "save_steps=9999 is more than the run has"),
        ({"batch_size": 256, "memory_budget_gib": 1000.0}, "every step is a whole pass"),
    ],
)
def test_what_a_caller_can_hardly_mean_is_pointed_out(planned, options, words):
    assert any(words in warning for warning in planned(**options).warnings)


def test_an_assumed_card_can_be_planned_for_but_not_started(planned):
    found = planned(assume_gpu=CARD_8)
    assert found.device == "cuda"
    assert found.assumed_gpu
    assert found.recipe.packing
    assert 0 < found.tokens.padding_share < 0.2  # what the last sequences lack
    with pytest.raises(NotSupported, match="card that this machine does not have"):
        start_arguments(found)


def test_too_small_a_budget_steps_down_then_says_it_does_not_fit(planned):
    found = planned(memory_budget_gib=0.5)
    assert found.recipe.gradient_checkpointing == "on"
    assert found.recipe.batch_size == 1
    assert not found.memory.fits
    assert any("does not fit" in warning for warning in found.warnings)
    with pytest.raises(DoesNotFit):
        start_arguments(found)


def test_what_the_caller_fixed_is_not_stepped_down(planned):
    found = planned(memory_budget_gib=0.5, batch_size=8, gradient_checkpointing="off")
    assert (found.recipe.batch_size, found.recipe.gradient_checkpointing) == (8, "off")


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"target_modules": ["q_prj"]}, "q_proj"),
        ({"max_length": 4096}, "context of 512"),
        ({"warmup_steps": 5000}, "warmup_steps=5000"),
    ],
)
def test_values_the_model_or_run_cannot_have_are_refused(planned, options, word):
    with pytest.raises(InvalidArgument) as caught:
        planned(**options)
    assert word in str(caught.value)


def measured(workspace, number=0, **changed):
    """Write a finished run into the workspace's history."""
    line = {
        "run_id": f"run_{number}",
        "base_model": "other",
        "engine": "transformers",
        "device": "cpu",
        "device_name": "CPU",
        "method": "lora",
        "packing": False,
        "tokens_per_s": 100.0,
        "predicted_peak_gib": 1.0,
        "peak_gib": 0.8,
        "startup_s": 5.0,
        "parameters": 0,
    }
    history.record(workspace, history.Measured(**{**line, **changed}))


def test_the_time_comes_from_measured_runs_alone(planned, workspace, tiny_base):
    before = planned()
    assert before.eta_s is None
    assert "get_run" in before.reasons["eta_s"]
    for number in range(3):
        measured(workspace, number, base_model=str(tiny_base), tokens_per_s=90.0 + 10 * number)
    with (workspace.root / history.FILE_NAME).open("ab") as file:
        file.write(b'{"run_id": "half')
    found = planned()
    assert found.eta_s >= 5 + found.tokens.real / 100
    assert found.eta_low_s < found.eta_s < found.eta_high_s
    assert "3 runs of this base" in found.reasons["eta_s"]
    assert found.memory.low_gib < found.memory.predicted_peak_gib
    assert "3 measured runs" in found.memory.calibration
    assert planned(assume_gpu=CARD_8).eta_s is None


def test_the_time_of_a_new_base_is_scaled_from_others_with_a_wide_interval(planned, workspace, tiny_base):
    measured(workspace)
    assert planned().eta_s is None  # its size is not known
    shape = Shape.from_config(base_config(workspace, str(tiny_base)))
    measured(workspace, parameters=shape.parameters * 10, tokens_per_s=10.0)
    found = planned()
    assert 10 * 10**0.7 < found.tokens.real / (found.eta_s - 5) < 10 * 10
    assert found.eta_high_s > 1.9 * found.eta_s
    assert "other bases" in found.reasons["eta_s"]


def test_one_odd_run_widens_the_memory_interval_and_many_runs_set_it(planned, workspace):
    plain = planned().memory
    measured(workspace, peak_gib=2.0)
    odd = planned().memory
    assert odd.high_gib == pytest.approx(2 * odd.predicted_peak_gib, abs=0.02)
    assert odd.low_gib == plain.low_gib
    assert "nearly uncalibrated" in odd.calibration
    for number in range(19):
        measured(workspace, number, peak_gib=1.0 + 0.01 * number)
    many = planned().memory
    assert many.high_gib < 1.3 * many.predicted_peak_gib  # the odd one is left out
    assert "20 measured runs by lora" in many.calibration


def test_a_dataset_or_base_that_is_not_there_is_said_so(planned, workspace):
    with pytest.raises(NotFound):
        plan(workspace, "ds_aaaaaaaaaaaa", "embedded")
    with pytest.raises(UserError):
        planned("/nowhere/at/all")


def test_planning_imports_no_heavy_library():
    program = (
        "import sys, tunesmith.training.planning, tunesmith.training.diagnosis\n"
        "print(sorted(sys.modules.keys() & {'torch', 'transformers', 'trl', 'peft', 'datasets', 'tokenizers'}))"
    )
    told = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert told.strip() == "[]"


@pytest.mark.slow
def test_auto_on_a_machine_without_a_card_is_the_embedded_model(planned):
    found = planned("auto")
    assert found.base_model == "embedded"
    assert "embedded" in found.reasons["base_model"]
    assert not start_arguments(found)["download"]


@pytest.mark.slow
def test_tokens_are_estimated_about_as_they_are_counted(workspace):
    rows = DatasetStore(workspace)
    text = "The logger is woken with a magnet that is held on the mark for four seconds, and answers with a blink."
    dataset = rows.create(make_rows(30, answer=text), name="lamps", created_by="test")
    counted = tokenise(
        list(rows.rows(dataset.dataset_id)),
        prompt_format_for(workspace, "embedded"),
        tokenizer_for(workspace, "embedded"),
    )
    known = find("embedded")
    assert known is not None
    guessed = estimated(list(rows.rows(dataset.dataset_id)), known)
    total = sum(example.tokens_before_cut for example in counted)
    assert sum(example.tokens_before_cut for example in guessed) == pytest.approx(total, rel=0.25)
