"""Writes docs/models.md from the table of families that the tests go through.

    python -m tools.models_table

Measures the error of each row, which takes a few minutes and needs torch and transformers.
Deliberately does not know families: what it writes is in tests/models/family_table.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from flaxen.families import find_family
from tests.models.family_table import ROWS
from tests.models.family_table.row import Row

PAGE = Path(__file__).parents[1] / "docs" / "models.md"
NOT_MEASURED = "not measured"

_HEAD = """\
# Models

<!-- Written by `python -m tools.models_table`; edit tests/models/family_table instead. -->

A model is read by the architecture that its config.json names. The features are those beside \
Llama's (RMS norms before each part, rope, a SiLU-gated MLP), and are all honoured; a field of \
config.json that would change the result and is not supported is refused by its name. A family \
trains (all parameters, LoRA, DPO, GRPO) and serves through one forward, with the C++ kernels \
and through XLA.

Each row is tested: a tiny random checkpoint of transformers' own class with awkward settings \
gives transformers' logits and its greedy continuation; chunked, decoded, batched, cached and \
preempted are the same bits as prefilled whole, and as in training; the gradient is right by \
finite differences; the files come back to the bit. The error is the largest difference of a \
float32 logit from transformers', where the logits' standard deviation is 1 to 12, measured \
with the C++ kernels and through XLA by the command above.

| Family | Architecture | Features | Largest error | Train | Serve | LoRA | Quantized | GGUF |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""

_TAIL = """
LoRA is whether adapters of PEFT are read and written by its names of modules. Quantized is \
`--quantization`, and quantized checkpoints of Hugging Face. GGUF is the architecture by which \
llama.cpp's files name it, where flaxen reads and writes these.

Where layers keep a state (LFM2, Mamba-2, Granite 4, Qwen3-Next), no prefix is cached, and \
`flaxen serve` says so: the state is that of a sequence's last token, so every prompt is computed \
from its first ([decision 0221](decisions/0221-a-prefix-all-groups-agree-on.md)).

[Adding a family](how-to/add-a-model.md) is one file and one row.
"""


def document(errors: Mapping[str, str]) -> str:
    """The page.

    Args:
      errors: the largest error of each architecture, as it is written.
    """
    lines = [_line(rows, errors.get(name, NOT_MEASURED)) for name, rows in _by_model().items()]
    return _HEAD + "".join(lines) + _TAIL


def errors_of(page: str) -> dict[str, str]:
    """The errors that a page has, by architecture."""
    found = re.findall(r"^\| [^|]+ \| `(\w+)` \| [^|]+ \| ([^|]+) \|", page, re.MULTILINE)
    return dict(found)


def _by_model() -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in ROWS:
        found.setdefault(row.model, []).append(row)
    return found


def _line(rows: list[Row], error: str) -> str:
    first = rows[0]
    name = find_family(first.model).gguf_architecture
    gguf = f"`{name}`" if any(row.gguf is not None for row in rows) else "no"
    cells = (first.family, f"`{first.model}`", first.features, error, "yes", "yes", first.lora,
             first.quantized, gguf)  # fmt: skip
    return f"| {' | '.join(cells)} |\n"


def measure() -> dict[str, str]:
    """The largest error of each architecture over its rows, on each backend that is here."""
    from tests.models.family_table.measured import largest_error

    return {model: f"{max(map(largest_error, rows)):.1e}" for model, rows in _by_model().items()}


if __name__ == "__main__":
    PAGE.write_text(document(measure()), encoding="utf-8")
