"""The device: what is refused, and what is said about the machine's accelerators."""

from __future__ import annotations

import jax
import pytest

from flaxen.kernels.accelerators import (
    KINDS,
    Surroundings,
    look_around,
    overlooked,
    why_missing,
)
from flaxen.kernels.device import (
    DEVICES,
    describe_devices,
    gpu_memory_settings,
    memory_limit,
    use_device,
)
from flaxen.kernels.hardware import NVIDIA, TPU

NOTHING = Surroundings(accelerators=(), plugins={})
BARE = Surroundings(accelerators=(NVIDIA, NVIDIA), plugins={})
NO_CARD = Surroundings(accelerators=(), plugins={"cuda": "jax-cuda12-plugin 0.10.2"})
BOTH = Surroundings(accelerators=(NVIDIA,), plugins={"cuda": "jax-cuda12-plugin 0.10.2"})


def why(
    surroundings: Surroundings, jax_error: str | None = None, running_on: str | None = None
) -> str:
    return why_missing("cuda", surroundings, jax_error=jax_error, running_on=running_on)


def test_the_names() -> None:
    assert DEVICES == ("auto", "cpu", "cuda", "rocm", "tpu")
    with pytest.raises(ValueError, match="'gpu' is not known: use one of auto, cpu, cuda, rocm, t"):
        use_device("gpu")


def test_what_jax_computes_on_already_is_taken() -> None:
    use_device("auto")
    use_device("cpu")
    assert jax.default_backend() == "cpu"


@pytest.mark.parametrize("name", list(KINDS))
def test_a_device_that_is_not_here_is_refused_and_nothing_is_changed(name: str) -> None:
    assert jax.default_backend() == "cpu"  # started, so that nothing looks for hardware below
    before = jax.config.jax_platforms  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=f"the device {name} was asked for, but "):
        use_device(name)
    assert jax.config.jax_platforms == before  # type: ignore[attr-defined]
    assert jax.default_backend() == "cpu"


def test_a_plugin_that_is_missing_is_named() -> None:
    assert why(BARE, "Unknown backend: 'cuda'") == (
        "the device cuda was asked for, but JAX has no plugin for it here: pip install "
        "'flaxen[cuda]'"
    )
    both = "This machine does not show an NVIDIA GPU either: use device cpu here"
    assert why(NOTHING).endswith(both)


def test_a_card_that_is_missing_is_told_apart_from_one_that_does_not_start() -> None:
    assert why(NO_CARD, "CUDA_ERROR_NO_DEVICE") == (
        "the device cuda was asked for, but this machine does not show an NVIDIA GPU (JAX's plugin "
        "is here (jax-cuda12-plugin 0.10.2), /dev/nvidia0 is not): install its driver, pass it "
        "into the container (docker run --gpus all), or use device cpu"
    )
    said = why(BOTH, "Unable to initialize backend 'cuda': too old\nmore")
    assert (
        "but JAX can't start it (JAX's plugin is here (jax-cuda12-plugin 0.10.2)): Unable" in said
    )
    assert "too old. To mend it: see whether nvidia-smi works here; CUDA 12 needs a driver" in said


def test_a_process_that_computes_already_is_told_when_to_choose() -> None:
    said = why(BOTH, running_on="cpu")
    assert said == (
        "the device cuda was asked for, but JAX computes on cpu in this process already: choose "
        "the device before anything is computed, or start the process with JAX_PLATFORMS=cuda"
    )
    other = why_missing("cpu", BOTH, jax_error=None, running_on="gpu")
    assert "the device cpu was asked for, but JAX computes on gpu in this process already" in other


def test_an_accelerator_that_is_left_unused() -> None:
    assert overlooked(NOTHING) is None
    assert overlooked(NO_CARD) is None
    assert overlooked(BARE) == (
        "this machine has an NVIDIA GPU, which JAX has no plugin for: pip install 'flaxen[cuda]' "
        "to compute there, or --device cpu to leave it unused"
    )
    assert overlooked(BOTH) == (
        "this machine has an NVIDIA GPU, but JAX could not start it: --device cuda says why"
    )
    tpu = overlooked(Surroundings(accelerators=(TPU,), plugins={}))
    assert tpu is not None
    assert "'flaxen[tpu]'" in tpu


def test_this_machine() -> None:
    assert set(look_around().plugins) <= set(KINDS)
    assert describe_devices().endswith("cpu (cpu)")
    assert memory_limit() is None


def test_xla_takes_a_gpus_memory_as_it_is_needed_unless_the_environment_says_how() -> None:
    assert gpu_memory_settings({}) == {
        "XLA_CLIENT_MEM_FRACTION": "1.0",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }
    old = {"XLA_PYTHON_CLIENT_MEM_FRACTION": ".5", "XLA_PYTHON_CLIENT_PREALLOCATE": "true"}
    assert gpu_memory_settings(old) == {}
