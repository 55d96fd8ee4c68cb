"""The trainings that tunesmith is compared with, each as a process of its own: `peers.py KIND MODEL ROWS STEPS OUT`.

KIND is seed (the tutorial's script: Unsloth, 4-bit, batch 2 × 4, dropout 0.05, no packing), unsloth-packing (Unsloth's
own defaults, batch 2 × 4, with packing) or trl (TRL, PEFT and bitsandbytes, 4-bit, batch 2 × 4). Real tokens are those
of the attention mask, or all of a batch without padding; the clock runs from the end of step WARM to the end of the
last one, and the card is waited for at both ends and nowhere else.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from setting import ALPACA, TARGETS

WARM = 4
GIB = 2**30


def main(kind: str, folder: str, rows_file: str, steps: int, out: str) -> None:
    cpu = os.environ.get("DRY_RUN") == "1"
    packing = kind == "unsloth-packing"
    if kind != "trl":
        from unsloth import FastLanguageModel
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    if cap := os.environ.get("CAP_GIB"):
        total = torch.cuda.get_device_properties(0).total_memory / GIB
        torch.cuda.set_per_process_memory_fraction(float(cap) / total)
    extra: dict[str, Any] = {}
    if kind == "trl":
        from peft import LoraConfig

        tokenizer = AutoTokenizer.from_pretrained(folder)
        four_bit = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=torch.bfloat16,
            bnb_4bit_use_double_quant=True,
        )
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=torch.float32 if cpu else torch.bfloat16,
            **({} if cpu else {"quantization_config": four_bit, "device_map": {"": 0}}),
        )
        extra["peft_config"] = LoraConfig(
            r=16, lora_alpha=32, lora_dropout=0.05, target_modules=TARGETS, bias="none", task_type="CAUSAL_LM"
        )
    else:
        model, tokenizer = FastLanguageModel.from_pretrained(
            model_name=folder, max_seq_length=2048, dtype=None, load_in_4bit=True
        )
        model = FastLanguageModel.get_peft_model(
            model,
            r=16,
            target_modules=TARGETS,
            lora_alpha=16 if packing else 32,
            lora_dropout=0 if packing else 0.05,
            bias="none",
            use_gradient_checkpointing="unsloth",
            random_state=42,
        )
    lines = Path(rows_file).read_text(encoding="utf-8").splitlines()
    texts = [ALPACA.format(**json.loads(line)) + tokenizer.eos_token for line in lines]
    trainer = SFTTrainer(
        model=model,
        processing_class=tokenizer,
        train_dataset=Dataset.from_dict({"text": texts}),
        args=SFTConfig(
            output_dir=str(Path(out).parent / f"peer-{kind}"),
            per_device_train_batch_size=2,
            gradient_accumulation_steps=4,
            max_steps=steps,
            learning_rate=2e-4,
            lr_scheduler_type="cosine",
            warmup_steps=10,
            optim="adamw_torch" if cpu else "adamw_8bit",
            weight_decay=0.01,
            max_grad_norm=0.3,
            bf16=not cpu,
            use_cpu=cpu,
            logging_steps=10,
            save_strategy="no",
            report_to="none",
            max_length=2048,
            dataset_text_field="text",
            packing=packing,
            disable_tqdm=True,
            seed=42,
        ),
        **extra,
    )
    counted: dict[str, Any] = {"real": 0, "all": 0}
    compute_loss = trainer.compute_loss

    def counting(model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        mask = inputs.get("attention_mask")
        counted["all"] += inputs["input_ids"].numel()
        counted["real"] = counted["real"] + (inputs["input_ids"].numel() if mask is None else mask.sum())
        return compute_loss(model, inputs, *args, **kwargs)

    trainer.compute_loss = counting
    clock: dict[str, Any] = {}

    class Clock(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step in (WARM, steps):
                if not cpu:
                    torch.cuda.synchronize()
                clock[state.global_step] = (time.perf_counter(), int(counted["real"]), counted["all"])

    trainer.add_callback(Clock())
    trainer.train()
    (began, real_before, all_before), (ended, real, everything) = clock[WARM], clock[steps]
    found = {
        "steps_measured": steps - WARM,
        "seconds": round(ended - began, 3),
        "real_tokens": real - real_before,
        "padding_share": round(1 - (real - real_before) / (everything - all_before), 4),
        "steady_tokens_per_s": round((real - real_before) / (ended - began), 1),
        "padding_free": bool(getattr(trainer.args, "padding_free", False)),
        "packing": bool(trainer.args.packing),
    }
    if not cpu:
        found["peak_gpu_gib"] = round(torch.cuda.max_memory_reserved() / GIB, 3)
        found["peak_allocated_gib"] = round(torch.cuda.max_memory_allocated() / GIB, 3)
    Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5])
