"""What is left out between two passes is only what would change nothing."""

import subprocess
import sys

SETTLED = """
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM
from tunesmith.training.engines.lean import settle

shape = dict(vocab_size=32, hidden_size=16, intermediate_size=16, num_attention_heads=2, num_hidden_layers=1)
base = LlamaForCausalLM(LlamaConfig(**shape)).eval()  # as from_pretrained leaves it
model = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"]))

def modes():
    return {module.training for module in model.modules()}

assert modes() == {True, False}, modes()
settle(model)
model.train()
assert modes() == {True}, modes()
model.training = False  # as Unsloth begins
model.eval()
assert modes() == {False}, modes()
"""


def test_every_module_is_told_whether_it_trains_though_the_outermost_says_so_already():
    done = subprocess.run([sys.executable, "-c", SETTLED], check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
