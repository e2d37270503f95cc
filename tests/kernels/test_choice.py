"""The choice of a backend: by the device, by what is installed, and by what was asked for."""

from __future__ import annotations

import pytest

from flaxen.kernels.backend import Backend, find_implementation
from flaxen.kernels.choice import choose_backend, invariant_backend
from flaxen.kernels.compiling import compiler_options


@pytest.mark.parametrize(
    ("platform", "is_built", "chosen"),
    [
        ("cpu", True, Backend.CPU),
        ("cpu", False, Backend.REFERENCE),
        ("gpu", True, Backend.GPU),
        ("tpu", False, Backend.TPU),
        ("metal", True, Backend.REFERENCE),  # another platform of XLA's
    ],
)
def test_auto_is_the_devices_own(platform: str, is_built: bool, chosen: Backend) -> None:
    for name in ("auto", chosen.value):
        found = choose_backend(name, platform=platform, is_built=is_built, has_tokamax=False)
        assert found is chosen


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
def test_the_reference_runs_everywhere(platform: str) -> None:
    assert choose_backend("reference", platform=platform, is_built=True) is Backend.REFERENCE


def test_a_tpu_takes_tokamax_where_it_is_installed() -> None:
    assert choose_backend(platform="tpu", has_tokamax=True) is Backend.TPU_TOKAMAX
    assert choose_backend(platform="tpu", has_tokamax=False) is Backend.TPU
    assert choose_backend("tpu", platform="tpu", has_tokamax=True) is Backend.TPU
    assert choose_backend("tpu-tokamax", platform="tpu", has_tokamax=True) is Backend.TPU_TOKAMAX
    with pytest.raises(ValueError, match=r"not installed: pip install 'flaxen\[tokamax\]'"):
        choose_backend("tpu-tokamax", platform="tpu", has_tokamax=False)
    with pytest.raises(ValueError, match="tpu-tokamax was asked for, but JAX computes on cpu"):
        choose_backend("tpu-tokamax", platform="cpu", is_built=True)


def test_what_is_not_there_is_refused() -> None:
    with pytest.raises(
        ValueError, match="'npu' is not known: use one of auto, reference, cpu, gpu, tpu"
    ):
        choose_backend("npu")
    with pytest.raises(ValueError, match="the backend cpu was asked for, but there is no libflax"):
        choose_backend("cpu", platform="cpu", is_built=False)
    with pytest.raises(
        ValueError,
        match="the backend cpu was asked for, but JAX computes on tpu here: use auto, tpu, tpu-tok",
    ):
        choose_backend("cpu", platform="tpu", is_built=True)
    with pytest.raises(ValueError, match="backend gpu was asked for, but JAX computes on cpu here"):
        choose_backend("gpu", platform="cpu", is_built=True)


def test_the_backend_of_a_batch_invariant_engine() -> None:
    assert invariant_backend(Backend.CPU) is Backend.CPU  # it is so already
    assert invariant_backend(Backend.GPU) is Backend.GPU_INVARIANT
    for backend in (Backend.REFERENCE, Backend.TPU):
        with pytest.raises(ValueError, match=f"on the backend {backend.value} XLA chooses the ord"):
            invariant_backend(backend)
    with pytest.raises(ValueError, match=r"with tensor=4, .* use one GPU or data=N"):
        invariant_backend(Backend.GPU, num_parts=4)
    with pytest.raises(ValueError, match="'gpu-invariant' is not known"):  # the option chooses it
        choose_backend("gpu-invariant")


def test_a_gpus_step_is_one_command_buffer() -> None:
    assert compiler_options(Backend.CPU) == {}
    (types,) = compiler_options(Backend.GPU).values()
    assert {"CONDITIONAL", "WHILE"} <= set(types.split(","))
    assert list(compiler_options(Backend.GPU, enforce_eager=True).values()) == [""]


def test_an_op_without_an_implementation_says_what_there_is() -> None:
    table = {Backend.REFERENCE: 1, Backend.CPU: 2}
    assert find_implementation("rope", table, Backend.CPU) == 2
    with pytest.raises(
        ValueError, match="rope has no implementation for the backend gpu: it has reference, cpu"
    ):
        find_implementation("rope", table, Backend.GPU)
