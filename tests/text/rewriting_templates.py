"""Small templates that render an answer in another way once more follows, as published ones do."""

from __future__ import annotations

_LAST_USER = (
    "{% set ns = namespace(asked=0) %}"
    "{% for m in messages %}{% if m.role == 'user' %}{% set ns.asked = loop.index0 %}{% endif %}"
    "{% endfor %}"
)
_CALLS = "{% for c in m.tool_calls or [] %}<call>{{ c.function | tojson }}</call>{% endfor %}"

# Thoughts of earlier turns are taken out, and the last answer always has some (as Qwen3).
THINKS = (
    _LAST_USER + "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% set said = (m.content or '').split('</think>')[-1].lstrip('\n') %}"
    "{% set thought = m.reasoning_content or (m.content or '').split('</think>')[0].split("
    "'<think>')[1] | trim if '</think>' in (m.content or '') else m.reasoning_content or '' %}"
    "{% if m.role == 'assistant' and loop.index0 > ns.asked and (loop.last or thought) %}"
    "<think>\n{{ thought }}\n</think>\n\n{% endif %}"
    "{{ said }}" + _CALLS + "<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)

# EOS stands at the end of all where no answer is asked for (as Phi-3.5).
ENDS = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}<|endoftext|>{% endif %}"
)

# The last answer ends in another way than those before, and has a header that is generated (as
# gpt-oss).
CHANNELS = (
    "{% for m in messages %}<|start|>{{ m.role }}"
    "{% if m.role == 'assistant' and m.thinking and loop.last %}"
    "<|channel|>analysis<|message|>{{ m.thinking }}<|end|><|start|>assistant{% endif %}"
    "{% if m.role == 'assistant' %}<|channel|>final{% endif %}<|message|>{{ m.content }}"
    "{% if m.role == 'assistant' and loop.last %}<|return|>{% else %}<|end|>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)

# The system message stands in the last user's (as Mistral Nemo).
SYSTEM_LAST = (
    _LAST_USER + "{% if messages[0].role == 'system' %}{% set system = messages[0].content %}"
    "{% endif %}<s>{% for m in messages %}"
    "{% if m.role == 'user' %}[INST]{% if system and loop.index0 == ns.asked %}"
    "{{ system }}\n\n{% endif %}{{ m.content }}[/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content | trim }}</s>{% endif %}{% endfor %}"
)

# A prompt begins a thought, which no answer has (as DeepSeek-R1).
OPENS = (
    "{% for m in messages %}{% if m.role == 'user' %}<|User|>{{ m.content }}{% else %}"
    "<|Assistant|>{{ m.content.split('</think>')[-1] }}<|eos|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|Assistant|><think>\n{% endif %}"
)

# It says itself what the assistant wrote, thoughts of the last answer included.
MARKED = (
    "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' %}{%- generation -%}"
    "{% if loop.last %}<think></think>{% endif %}{{ m.content }}</s>{% endgeneration %}"
    "{% else %}{{ m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)

# Nothing is added where an answer is asked for: the model writes the header, too.
NO_HEADER = (
    "{% for m in messages %}{{ '\n### ' + m.role }}: {{ m.content }}"
    "{% if not loop.last %}{{ '\n' }}{% endif %}{% endfor %}"
)
