"""The trainers of workload L: how each is started. Starts nothing."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping

from .engines import ROOT, Place
from .training import Trainer

NAMES = ("flaxen-bf16", "flaxen-f32", "peft-bf16", "peft-f32")
# What is compared where nothing is named. A model of a billion parameters would take hours.
DEFAULTS: Mapping[str, tuple[str, ...]] = {
    "smollm2-135m": ("flaxen-bf16", "peft-bf16", "peft-f32"),
    "llama-1b-rand": (),
    "moe-1b-rand": (),
}
_DTYPES = {"bf16": "bfloat16", "f32": "float32"}  # of the base; adapters are float32
# Of all seven matrices of a layer; AdamW without decay, gradients clipped to 1.
_RECIPE = {"rank": 16, "alpha": 32.0, "learning_rate": 5e-4}


def make_trainer(name: str, model: str, place: Place) -> Trainer:
    """Describes one trainer.

    Args:
      name: one of NAMES.
      model: a directory below the peers' models/.
      place: where to find it.

    Raises:
      ValueError: an unknown name.
    """
    if name not in NAMES:
        raise ValueError(f"there is no trainer {name!r}: choose from {', '.join(NAMES)}")
    peer, _, number_format = name.partition("-")
    args = {**_RECIPE, "dtype": _DTYPES[number_format], "threads": place.num_threads}
    if peer == "flaxen":
        python, module = sys.executable, "run_flaxen_train"
        args["compile_cache"] = str(place.peers / "flaxen-cache")
    else:
        python, module = str(place.peers / "venv_hf/bin/python"), "run_peft"
    path = str(place.peers / "models" / model)
    return Trainer(
        name=name,
        command=(python, "-m", f"benchmarks.peers.workers.{module}", path, json.dumps(args)),
        env={
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": str(place.num_threads),
            "HF_HUB_OFFLINE": "1",
        },
    )
