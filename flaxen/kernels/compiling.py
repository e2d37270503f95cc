"""The options that XLA compiles an engine's step with, for each backend.

Deliberately does not know what is compiled.
"""

from __future__ import annotations

from flaxen.kernels.backend import Backend

# What a command buffer (a CUDA graph) may contain, in XLA's names. All but the last two are XLA's
# default. With these two the whole step is one graph: the choices in sampling are made on the
# device. Without, the host waits in the middle of a step to read each choice. XLA leaves them out
# by itself where the driver is older than CUDA 12.3, and on AMD.
COMMAND_BUFFERS = (
    "FUSION",
    "CUBLAS",
    "CUBLASLT",
    "CUSTOM_CALL",
    "CUDNN",
    "DYNAMIC_SLICE_FUSION",
    "CONDITIONAL",
    "WHILE",
)


def compiler_options(backend: Backend, *, enforce_eager: bool = False) -> dict[str, str]:
    """The options, as `jax.jit` takes them.

    Args:
      backend: what computes.
      enforce_eager: no command buffers.
    """
    if not backend.has_command_buffers:
        return {}
    return {"xla_gpu_enable_command_buffer": "" if enforce_eager else ",".join(COMMAND_BUFFERS)}
