"""Makes the checkpoint of a row with transformers, and what transformers computes with it.

Nothing is left at its initial value, and the weights are large enough that leaving out any feature
changes the logits.
"""

from __future__ import annotations

import functools
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.extras import extra
from tests.models.family_table.row import NUM_TOKENS, Row

NUM_GREEDY = 8
PROMPT = 12  # the tokens that transformers continues

_FOLDER = tempfile.TemporaryDirectory(prefix="flaxen-families-")  # removed at the process's end


@dataclass(frozen=True, kw_only=True)
class Made:
    """A checkpoint, and the results of transformers."""

    directory: Path
    tokens: np.ndarray  # [T]
    logits: np.ndarray  # [T, V]
    greedy: tuple[int, ...]  # what follows the first PROMPT tokens


@functools.cache
def made(row: Row) -> Made:
    """The row's checkpoint, made once in a process."""
    torch: Any = extra("torch")
    transformers: Any = extra("transformers")
    model_type = getattr(transformers, row.model)
    config = model_type.config_class(**row.options, attn_implementation="eager")
    generator = torch.Generator().manual_seed(row.seed)
    torch.manual_seed(row.seed)
    model = model_type(config).to(torch.float32).eval()
    for name, parameter in model.named_parameters():
        _randomize(torch, name, parameter, generator)
    saved = model.state_dict().keys()  # a router's bias for the choice is a buffer that is saved
    for name, buffer in model.named_buffers():
        if name in saved and buffer.is_floating_point():
            _randomize(torch, name, buffer, generator)
    model.tie_weights()
    tokens = torch.randint(3, config.vocab_size, (NUM_TOKENS,), generator=generator)
    with torch.no_grad():
        logits = model(tokens[None]).logits[0]
        greedy = _continue(torch, model, tokens[:PROMPT])
    directory = Path(_FOLDER.name) / row.name
    transformers.utils.logging.disable_progress_bar()
    model.save_pretrained(directory)
    return Made(
        directory=directory,
        tokens=tokens.numpy().astype(np.int32),
        logits=logits.numpy().astype(np.float32),
        greedy=greedy,
    )


def _randomize(torch: Any, name: str, parameter: Any, generator: Any) -> None:
    """Weights that keep the activations near 1, vectors around their initial values, which are 0
    or 1.
    """
    noise = torch.randn(parameter.shape, generator=generator)
    if parameter.dim() < 2:
        size = 0.5 if name.endswith("bias") else 0.3
        parameter.data = parameter.data + size * noise
    elif "embed" in name or name.endswith(("wte.weight", "wpe.weight")):
        parameter.data = noise
    else:
        parameter.data = 1.5 * noise / parameter.shape[-1] ** 0.5


def _continue(torch: Any, model: Any, prompt: Any) -> tuple[int, ...]:
    """The greedy continuation, which nothing ends."""
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    found = model.generate(
        prompt[None],
        attention_mask=torch.ones_like(prompt)[None],
        max_new_tokens=NUM_GREEDY,
        do_sample=False,
    )
    return tuple(found[0, len(prompt) :].tolist())
