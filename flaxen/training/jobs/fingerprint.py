"""What the state of a fine-tuning job depends on: a server where this changed can't resume it.

Deliberately does not know the run itself.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import jax

from flaxen.checkpoints.identity import digest_of_arrays, text_digests
from flaxen.kernels.linear import LinearWeight, PackedLinear
from flaxen.models.model import Params
from flaxen.training.fingerprint import Fact, Fingerprint, facts
from flaxen.training.jobs.data import JobData
from flaxen.training.jobs.spec import Base, JobSpec


def job_fingerprint(spec: JobSpec, base: Base, data: JobData) -> Fingerprint:
    """Everything that the state of a job depends on.

    Args:
      spec: the job.
      base: the served model.
      data: the opened data.
    """
    form, digest = _form(base.params), digest_of_arrays(base.params)
    settings = {
        "method": spec.method,
        "seed": spec.seed,
        "lora": asdict(spec.lora),
        "plan": asdict(data.plan),
        "model": text_digests(base.tokenizer),
        "training_file": data.batches.file_digests,
    }
    return {
        "model": Fact(digest, f"{base.name} (weights {digest}, as {form})"),
        **facts(settings),
    }


def _form(params: Params) -> str:
    """How the matrices are stored: another format has other values."""
    leaves = jax.tree.leaves(params, is_leaf=lambda leaf: isinstance(leaf, LinearWeight))
    return ", ".join(sorted({_format(leaf) for leaf in leaves}))


def _format(leaf: Any) -> str:
    if isinstance(leaf, LinearWeight):
        how = "packed" if isinstance(leaf, PackedLinear) else "quantized"
        return f"{how} {leaf.format}"
    return str(leaf.dtype)
