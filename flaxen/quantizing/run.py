"""Quantizes a checkpoint's layers, with or without calibration. Deliberately does not know argv."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp

from flaxen.quantizing.calibrate import OnLayer, input_sizes, quantize_layers, round_layers
from flaxen.quantizing.schemes import Quantized, Scheme, choose_scheme
from flaxen.quantizing.texts import read_texts
from flaxen.weights.checkpoint import Checkpoint


class Calibration(NamedTuple):
    """The texts of a calibration."""

    files: tuple[Path, ...]
    num_rows: int  # at most
    length: int | None  # tokens of a row; None chooses it


def quantize_checkpoint(
    checkpoint: Checkpoint,
    scheme: str,
    group: int | None,
    calibration: Calibration | None,
    on_layer: OnLayer,
) -> tuple[list[dict[str, Quantized]], Scheme]:
    """Quantizes the matrices of all layers.

    Args:
      checkpoint: the model.
      scheme: as in `choose_scheme`.
      group: the same.
      calibration: texts for GPTQ; None rounds to nearest.
      on_layer: called after each layer.

    Raises:
      ValueError: the scheme does not fit the model, or a text is bad.
      OSError: a file can't be read.
    """
    chosen = choose_scheme(scheme, group, input_sizes(checkpoint.model))
    texts = None if calibration is None else read_texts(checkpoint, *calibration)
    params = checkpoint.load_params(jnp.dtype(jnp.float32))
    if texts is None:
        return round_layers(checkpoint.model, params, chosen, on_layer), chosen
    layers = quantize_layers(checkpoint.model, checkpoint.config, params, texts, chosen, on_layer)
    return layers, chosen
