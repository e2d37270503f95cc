"""The arguments of an engine, and what follows from them: the dtype, whether weights are quantized.

Deliberately does not know: argv, how an engine is built.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from flaxen.attention_kernels.paged_attention import has_pages
from flaxen.definitions.definition import Definition
from flaxen.definitions.opening import IMPLS, AnySource
from flaxen.definitions.runner import RUNNERS
from flaxen.engine.speculative.config import SpeculativeConfig, read_config
from flaxen.hub.places import Places
from flaxen.kernels import choice
from flaxen.kernels.backend import Backend
from flaxen.kernels.device import check_device
from flaxen.kv_events.config import read_events_config
from flaxen.memory.device_memory import check_utilization
from flaxen.models.cache import attention_only, head_sizes
from flaxen.models.model import Model
from flaxen.protocol import LogprobsMode
from flaxen.sharding.shape import MeshShape, check_serving, combine_mesh
from flaxen.tensors.packing.pack import QUANTIZATIONS, Quantization
from flaxen.weights.huggingface.generation_config import AUTO

KV_CACHE_DTYPES = {
    "auto": None,  # that of compute
    "float32": jnp.float32,
    "bfloat16": jnp.bfloat16,
    "int8": jnp.int8,
    "fp8": jnp.float8_e4m3fn,
    "fp8_e4m3": jnp.float8_e4m3fn,
}
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


@dataclass(frozen=True, kw_only=True)
class EngineArgs:
    """The arguments of an engine, with vLLM's names where it has them.

    Raises:
      ValueError: an unknown dtype or quantization, or a size below 1; EngineConfig checks the
          other limits.
    """

    model: str  # a short name, a directory, a .gguf file, ORG/NAME or ORG/NAME:Q4_K_M
    # Where JAX computes: cpu, cuda, rocm, tpu, in the whole process; auto is JAX's choice.
    device: str = choice.AUTO
    backend: str = choice.AUTO  # what computes: cpu, gpu, tpu, reference; auto is the device's
    # The devices, as tensor=4,data=2; vLLM's three sizes say the same of one axis each.
    mesh: str = ""
    tensor_parallel_size: int | None = None
    pipeline_parallel_size: int | None = None
    data_parallel_size: int | None = None
    # Compute dtype: float32, bfloat16; auto is float32 if XLA computes on a CPU.
    dtype: str = "auto"
    impl: str = "auto"  # flaxen, torch; auto is our decoder if it supports the family, else torch
    # generate, pooling (vectors in place of text); auto is what the model's files say.
    runner: str = "auto"
    quantization: Quantization = "auto"  # of weights; auto keeps the file's
    # The code of a definition's directory, as FILE.py:NAME; None runs what the directory names.
    definition: Definition | str | None = None
    served_model_name: str | None = None  # None: the model's name
    # Tokens; None: the model's, or fewer if the KV cache is smaller.
    max_model_len: int | None = None
    # None: the backend's own, in execution/step_sizes.py.
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    # Target for the time between two tokens of a sequence while prompts are computed. 0: no target;
    # None: the pace chooses it.
    target_itl_ms: float | None = 0
    page_size: int = 16  # tokens
    # Number format of keys and values in the KV cache: auto is the dtype of compute; int8 and fp8
    # take half of bfloat16, with a scale for each token and head (fp8 on a TPU has none).
    kv_cache_dtype: str = "auto"
    kv_cache_bytes: int | None = None  # None: what memory/cache_plan.py chooses
    # Set apart for this model's weights and KV cache, and on a CPU its stored pages too; None takes
    # of all the memory.
    memory_bytes: int | None = None
    # The share of an accelerator's memory that the engine may take, 0 to 1; None: 0.9. On a CPU it
    # must be None.
    gpu_memory_utilization: float | None = None
    enable_prefix_caching: bool = True
    # Memory of the host, and a directory, for pages that the KV cache has no room for; 0 and None
    # keep none. The directory's pages are found after a restart too.
    kv_offload_bytes: int = 0
    kv_offload_dir: Path | str | None = None
    # The most bytes of the directory's files; None: 10 GiB.
    kv_offload_dir_bytes: int | None = None
    # Where vLLM's KV events are published: its JSON object, or a mapping; None publishes none.
    kv_events_config: str | Mapping[str, Any] | None = None
    max_waiting: int = 4096  # sequences
    max_unread_bytes: int = 2**28  # the most bytes of unread events in all
    max_logprobs: int = 20
    logprobs_mode: str = "raw_logprobs"  # a LogprobsMode
    # A token's bits depend on its own sequence alone, whatever is beside it in a step.
    batch_invariant: bool = False
    enforce_eager: bool = False  # on a GPU: no CUDA graphs
    seed: int = 0
    compile_sizes: tuple[int, ...] = ()  # the numbers of tokens of compiled steps; () chooses them
    offline: bool = False  # never ask the Hugging Face hub
    models_dir: Path | None = None  # a directory in which `model` is looked for, and put
    # The source of sampling defaults: auto is the model's own generation_config.json, vllm is none,
    # otherwise a directory with that file.
    generation_config: str = AUTO
    # The chat template: a file, Jinja source, or the name of one of the model's; None: the model's.
    chat_template: str | None = None
    # Speculative decoding, with vLLM's keys: engine/speculative/config.py has them. None: none.
    speculative_config: Mapping[str, Any] | None = None

    @property
    def mesh_shape(self) -> MeshShape:
        """The mesh, however it was given."""
        return combine_mesh(
            self.mesh,
            tensor=self.tensor_parallel_size,
            pipeline=self.pipeline_parallel_size,
            data=self.data_parallel_size,
        )

    @property
    def stores_pages(self) -> bool:
        """Whether pages are stored outside of the KV cache."""
        return bool(self.kv_offload_bytes) or self.kv_offload_dir is not None

    @property
    def speculation(self) -> SpeculativeConfig | None:
        """How drafts are proposed; None for no speculative decoding."""
        given = self.speculative_config
        return None if given is None else read_config(given)

    @property
    def places(self) -> Places:
        """The places in which the model is looked for."""
        return Places(models_dir=self.models_dir, offline=self.offline)

    def __post_init__(self) -> None:
        _ = self.speculation  # raises for a bad one
        check_device(self.device)
        check_serving(self.mesh_shape)
        if self.gpu_memory_utilization is not None:
            check_utilization(self.gpu_memory_utilization)
        if self.kv_cache_dtype not in KV_CACHE_DTYPES:
            raise ValueError(
                f"kv_cache_dtype {self.kv_cache_dtype!r} is not supported: use one of "
                f"{', '.join(KV_CACHE_DTYPES)}"
            )
        if self.dtype not in ("auto", *DTYPES):
            raise ValueError(
                f"dtype {self.dtype!r} is not supported: use auto, {' or '.join(DTYPES)}"
            )
        if self.impl not in IMPLS:
            raise ValueError(f"impl {self.impl!r} is not supported: use {', '.join(IMPLS)}")
        if self.runner not in RUNNERS:
            raise ValueError(f"runner {self.runner!r} is not supported: use {', '.join(RUNNERS)}")
        if self.quantization not in QUANTIZATIONS:
            raise ValueError(
                f"quantization {self.quantization!r} is not supported: use one of "
                f"{', '.join(QUANTIZATIONS)}"
            )
        if self.logprobs_mode not in list(LogprobsMode):
            raise ValueError(
                f"logprobs_mode {self.logprobs_mode!r} is not supported: use one of "
                f"{', '.join(LogprobsMode)}"
            )
        if self.kv_events_config is not None:
            read_events_config(self.kv_events_config)
        dir_bytes = self.kv_offload_dir_bytes
        if self.kv_offload_bytes < 0 or (dir_bytes is not None and dir_bytes < 1):
            raise ValueError(
                f"kv_offload_bytes must be at least 0 and kv_offload_dir_bytes at least 1, got "
                f"{self.kv_offload_bytes} and {dir_bytes}"
            )
        if dir_bytes is not None and self.kv_offload_dir is None:
            raise ValueError(
                f"kv_offload_dir_bytes (--kv-offload-dir-bytes) is {dir_bytes}, and there is no "
                "directory: name one with kv_offload_dir (--kv-offload-dir), or leave it out"
            )
        for name in ("max_model_len", "max_num_seqs", "max_num_batched_tokens"):
            size = getattr(self, name)
            if size is not None and size < 1:  # before memory is divided by them
                raise ValueError(f"{name} must be at least 1, got {size}")


def cache_dtype(name: str, dtype: jnp.dtype, model: Model) -> jnp.dtype:
    """The dtype of the KV cache.

    Args:
      name: one of KV_CACHE_DTYPES.
      dtype: that of compute.
      model: the model, made for its backend.

    Raises:
      ValueError: the backend has no such pages for the model's heads or the dtype of compute.
    """
    asked = KV_CACHE_DTYPES[name]
    if asked is None:
        return dtype
    chosen: jnp.dtype = jnp.dtype(asked)
    if chosen.itemsize > 1 and chosen != dtype:
        raise ValueError(
            f"kv_cache_dtype {name} was asked for, but the engine computes in {dtype.name}: use "
            f"auto, int8 or fp8, or --dtype {name} for both"
        )
    sizes = [head_sizes(spec) for spec in attention_only(model.cache_specs)]
    for head_dim, value_dim in sizes:
        if not has_pages(head_dim, chosen, value_dim=value_dim, backend=model.backend):
            others = [each for each in ("int8", "fp8") if _has_all(sizes, each, model.backend)]
            values = (
                f"values of {value_dim}" if value_dim else "values that are a part of their keys"
            )
            raise ValueError(
                f"kv_cache_dtype {name} was asked for, but the backend {model.backend.value} has "
                f"no pages in it for heads of {head_dim} with {values}: use "
                f"{', '.join(['auto', *others])}"
            )
    return chosen


def _has_all(sizes: Sequence[tuple[int, int]], name: str, backend: Backend) -> bool:
    """Whether a backend has pages of a format for all heads of a model."""
    dtype = jnp.dtype(KV_CACHE_DTYPES[name])
    return all(
        has_pages(head_dim, dtype, value_dim=value_dim, backend=backend)
        for head_dim, value_dim in sizes
    )


def check_batch_invariance(model: AnySource, backend: Backend) -> None:
    """Refuses a model with sums of its own where their order has to be fixed.

    Raises:
      ValueError: it is a definition, and the backend computes on a GPU.
    """
    if isinstance(model, Definition) and backend is Backend.GPU_INVARIANT:
        raise ValueError(
            f"batch_invariant was asked for, but {model.name} is a definition, whose own sums are "
            "XLA's on a GPU: use a model of a supported family, or leave it out"
        )


def check_eager(enforce_eager: bool, backend: Backend) -> None:
    """Refuses to leave out what is not there.

    Raises:
      ValueError: no command buffers were asked for, and the backend has none.
    """
    if enforce_eager and not backend.has_command_buffers:
        raise ValueError(
            f"enforce_eager leaves out CUDA graphs, and the backend {backend.value} has none: "
            "leave it out"
        )


def compute_dtype(name: str, backend: Backend, model: AnySource | None = None) -> jnp.dtype:
    """The dtype in which a model computes.

    Args:
      name: float32, bfloat16 or auto.
      backend: the backend that computes.
      model: the model; "auto" for a definition is the dtype of its parameters.

    Raises:
      ValueError: "auto" was given for a definition with another dtype.
    """
    if name == "auto" and isinstance(model, Definition):
        name = model.dtype.name
        if name not in DTYPES:
            raise ValueError(
                f"the definition's parameters are {name}: choose with dtype whether to compute in "
                f"{' or '.join(DTYPES)}"
            )
    elif name == "auto":
        name = backend.default_dtype
    dtype: jnp.dtype = jnp.dtype(DTYPES[name])
    return dtype
