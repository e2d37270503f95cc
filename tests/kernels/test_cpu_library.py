"""The library itself: where it is found, and what can be set."""

from __future__ import annotations

import _ctypes
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from flaxen.kernels import cpu_library


def test_it_was_built_if_there_is_a_compiler() -> None:
    assert cpu_library.is_built() or not (shutil.which("g++") or shutil.which("clang++"))


@pytest.mark.skipif(not cpu_library.is_built(), reason="the library was not built")
def test_the_portable_path_is_always_there() -> None:
    assert cpu_library.supported_isas()[-1] == "portable"


def test_the_chosen_isa_is_the_one_in_use(isa: str) -> None:
    assert cpu_library.isa() == isa
    assert isa in cpu_library.supported_isas()  # which asks, and leaves the choice as it was
    assert cpu_library.isa() == isa


def test_a_wider_instruction_set_multiplies_faster() -> None:
    chosen = cpu_library.isa()
    found = {}
    for isa in cpu_library.supported_isas():
        cpu_library.start(isa=isa)
        found[isa] = {
            dtype: max(cpu_library.peak_flops(dtype) for _ in range(5))
            for dtype in ("float32", "bfloat16")
        }
    cpu_library.start(isa=chosen)
    for isa, flops in found.items():  # a slow core makes 1 GHz, and a fast one not a thousand
        assert all(1e9 < each < 1e13 for each in flops.values()), (isa, flops)
    # A processor with AMX may multiply bfloat16 in AVX-512 at half the rate of float32, so only the
    # instruction set that is chosen by itself has to be faster.
    widest = cpu_library.supported_isas()[0]
    if widest in ("amx", "avx512_bf16"):
        assert found[widest]["bfloat16"] > 1.3 * found[widest]["float32"], found


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no CPU ISA 'sse2': use one of amx, avx512_bf16"):
        cpu_library.start(isa="sse2")
    with pytest.raises(ValueError, match="the number of threads must be at least 1, got 0"):
        cpu_library.start(num_threads=0)


@pytest.mark.skipif(not cpu_library.is_built(), reason="the library was not built")
@pytest.mark.skipif(
    set(cpu_library.ISAS) <= set(cpu_library.supported_isas()), reason="it has them all"
)
def test_what_the_machine_lacks_is_refused() -> None:
    before = cpu_library.isa()
    lacking = min(set(cpu_library.ISAS) - set(cpu_library.supported_isas()))
    with pytest.raises(ValueError, match=f"this machine has no {lacking}: leave the CPU ISA unset"):
        cpu_library.start(isa=lacking)
    assert cpu_library.isa() == before


def test_a_process_has_one_library(isa: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the C\+\+ kernels are loaded already: give the path of"):
        cpu_library.start(path=tmp_path / "another.so")
    assert cpu_library.isa() == isa


def test_a_library_of_another_version_is_refused_with_what_to_do() -> None:
    start = (
        "import sys; from pathlib import Path; from flaxen.kernels import cpu_library\n"
        "cpu_library.start(path=Path(sys.argv[1]))"
    )
    command = [sys.executable, "-c", start, _ctypes.__file__]  # a library without our functions
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    last = ended.stderr.splitlines()[-1]
    assert last.startswith(f"RuntimeError: {_ctypes.__file__} was built from another version of")
    assert "build it again, by installing flaxen with pip's options --force-reinstall" in last


def test_there_are_as_many_threads_as_asked_for(isa: str, num_threads: int) -> None:
    assert cpu_library.num_threads() == num_threads


@pytest.mark.skipif(not cpu_library.is_built(), reason="the library was not built")
def test_the_number_of_threads_can_change_while_others_wait() -> None:
    before = cpu_library.num_threads()
    for count in (1, 4, 2, 4, 1):
        setter = threading.Thread(target=cpu_library.start, kwargs={"num_threads": count})
        setter.start()
        setter.join(timeout=30)
        assert not setter.is_alive()
        assert cpu_library.num_threads() == count
    cpu_library.start(num_threads=before)
