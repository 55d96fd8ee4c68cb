"""Chat templates as the families write them, each reduced to what it does with plain messages."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Example:
    text: str
    bos: str | None
    eos: str
    family: str
    end: str
    system: bool = True
    trims: bool = False


_ROLE_TURNS = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

EXAMPLES: dict[str, Example] = {
    "chatml": Example(_ROLE_TURNS, None, "<|im_end|>", "chatml", "<|im_end|>"),
    "chatml_default_system": Example(
        "{%- if messages[0].role != 'system' %}\n    {{- '<|im_start|>system\nHelp.<|im_end|>\n' }}\n{%- endif %}\n"
        + _ROLE_TURNS.replace("{% ", "{%- "),
        None, "<|im_end|>", "chatml", "<|im_end|>",
    ),
    "chatml_thinking": Example(
        "{%- for message in messages %}\n"
        "    {%- if message.role == 'assistant' and loop.last %}\n"
        "        {{- '<|im_start|>assistant\n<think>\n\n</think>\n\n' + message.content.lstrip('\n') "
        "+ '<|im_end|>\n' }}\n"
        "    {%- else %}\n"
        "        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}\n"
        "    {%- endif %}\n"
        "{%- endfor %}\n"
        "{%- if add_generation_prompt %}\n"
        "    {{- '<|im_start|>assistant\n' }}\n"
        "    {%- if enable_thinking is defined and enable_thinking is false %}\n"
        "        {{- '<think>\n\n</think>\n\n' }}\n"
        "    {%- endif %}\n"
        "{%- endif %}",
        None, "<|im_end|>", "chatml", "<|im_end|>",
    ),
    "chatml_no_empty_system": Example(
        "{% for m in messages %}{% if m.role != 'system' or m.content %}"
        "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        None, "<|im_end|>", "chatml", "<|im_end|>",
    ),
    "llama3_dated": Example(
        "{{- bos_token }}\n"
        "{%- if not date_string is defined %}\n"
        "    {%- if strftime_now is defined %}{%- set date_string = strftime_now(\"%d %b %Y\") %}"
        "{%- else %}{%- set date_string = '26 Jul 2024' %}{%- endif %}\n"
        "{%- endif %}\n"
        "{%- if messages[0]['role'] == 'system' %}{%- set first = messages[0]['content'] | trim %}"
        "{%- set messages = messages[1:] %}{%- else %}{%- set first = '' %}{%- endif %}\n"
        "{{- '<|start_header_id|>system<|end_header_id|>\n\nToday Date: ' + date_string + '\n\n' "
        "+ first + '<|eot_id|>' }}\n"
        "{%- for message in messages %}\n"
        "    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
        "{{- message['content'] | trim + '<|eot_id|>' }}\n"
        "{%- endfor %}\n"
        "{%- if add_generation_prompt %}\n"
        "    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}\n{%- endif %}\n",
        "<|begin_of_text|>", "<|eot_id|>", "llama3", "<|eot_id|>", trims=True,
    ),
    "llama3_always_asks": Example(
        "{% for m in messages %}{% set text = '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' "
        "+ m['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set text = bos_token + text %}{% endif %}"
        "{{ text }}{% endfor %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}",
        "<|begin_of_text|>", "<|eot_id|>", "llama3", "<|eot_id|>", trims=True,
    ),
    "mistral_no_system": Example(
        "{{ bos_token }}{% for m in messages %}"
        "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Roles must alternate') }}{% endif %}"
        "{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
        "{% else %}{{ m['content'] + eos_token }}{% endif %}{% endfor %}",
        "<s>", "</s>", "mistral", "</s>", system=False,
    ),
    "mistral_system_first": Example(
        "{{ bos_token }}{% set system = messages[0].content if messages[0].role == 'system' else none %}"
        "{% for m in messages %}{% if m.role == 'user' %}"
        "{{ '[INST] ' + (system + '\n\n' if loop.index0 == 1 and system is not none else '') + m.content + '[/INST]' }}"
        "{% elif m.role == 'assistant' %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}",
        "<s>", "</s>", "mistral", "</s>",
    ),
    "mistral_system_last": Example(
        "{{ bos_token }}{% set system = messages[0].content if messages[0].role == 'system' else none %}"
        "{% for m in messages %}{% if m.role == 'user' %}"
        "{{ '[INST] ' + (system + '\n\n' if loop.last and system is not none else '') + m.content + '[/INST]' }}"
        "{% elif m.role == 'assistant' %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}",
        "<s>", "</s>", "mistral", "</s>",
    ),
    # Version 3 of Mistral's tokenizer: the answer is trimmed, and no blank stands before the end of an instruction.
    "mistral_trims_answers": Example(
        "{{ bos_token }}{% set system = messages[0].content if messages[0].role == 'system' else none %}"
        "{% for m in messages %}{% if m.role == 'user' %}"
        "{{ '[INST] ' + (system + '\n\n' if loop.last and system is not none else '') + m.content + '[/INST]' }}"
        "{% elif m.role == 'assistant' %}{{ ' ' + m.content | trim + eos_token }}{% endif %}{% endfor %}",
        "<s>", "</s>", "mistral", "</s>", trims=True,
    ),
    # Version 7: a turn of its own for the system message, one by default, dated.
    "mistral_system_turn": Example(
        "{%- set default = 'The current date is ' + strftime_now('%Y-%m-%d') + '.\\n\\nSay so when unsure.' %}\n"
        "{{- bos_token }}\n"
        "{%- if messages[0].role == 'system' %}{%- set system = messages[0].content %}{%- set rest = messages[1:] %}"
        "{%- else %}{%- set system = default %}{%- set rest = messages %}{%- endif %}\n"
        "{{- '[SYSTEM_PROMPT]' + system + '[/SYSTEM_PROMPT]' }}\n"
        "{%- for m in rest %}\n"
        "    {%- if m.role == 'user' %}{{- '[INST]' + m.content + '[/INST]' }}"
        "{%- else %}{{- m.content + eos_token }}{%- endif %}\n"
        "{%- endfor %}\n",
        "<s>", "</s>", "mistral", "</s>",
    ),
    "gemma_no_system": Example(
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
        "{% endif %}{% for m in messages %}"
        "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Roles must alternate') }}{% endif %}"
        "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' + m['content'] | trim "
        "+ '<end_of_turn>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
        "<bos>", "<eos>", "gemma", "<end_of_turn>", system=False, trims=True,
    ),
    "gemma": Example(
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set first = messages[0]['content'] + '\n\n' %}"
        "{% set rest = messages[1:] %}{% else %}{% set first = '' %}{% set rest = messages %}{% endif %}"
        "{% for m in rest %}{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' "
        "+ (first if loop.first else '') }}{{ m['content'] | trim }}{{ '<end_of_turn>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
        "<bos>", "<eos>", "gemma", "<end_of_turn>", trims=True,
    ),
    "phi3": Example(
        "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}{# <|user|> #}",
        "<s>", "<|endoftext|>", "phi", "<|end|>",
    ),
    "phi4_mini": Example(
        "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}",
        "<|endoftext|>", "<|endoftext|>", "phi", "<|end|>",
    ),
    "phi4": Example(
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '<|im_sep|>' + m['content'] + '<|im_end|>' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}",
        "<|endoftext|>", "<|im_end|>", "phi", "<|im_end|>",
    ),
}  # fmt: skip
