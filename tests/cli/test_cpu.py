"""--threads and FLAXEN_CPU_ISA: what is set, what is said about it, and what is refused."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator

import pytest

from flaxen.cli.cpu import (
    Cpu,
    announce,
    backend_name,
    describe,
    set_up_cpu,
)
from flaxen.cli.main import main
from flaxen.kernels import cpu_library

BEST = (*cpu_library.supported_isas(), "xla")[0]


@pytest.fixture(autouse=True)
def restore(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The process's settings as they were; XLA has started long before, with its own threads."""
    monkeypatch.setenv("PJRT_NPROC", "")
    monkeypatch.delenv("FLAXEN_CPU_ISA", raising=False)
    num_threads = cpu_library.num_threads() if cpu_library.is_built() else 1
    yield
    if cpu_library.is_built():
        cpu_library.start(num_threads=num_threads, isa=BEST)


@pytest.mark.parametrize("isa", [*cpu_library.supported_isas(), "xla"])
def test_each_instruction_set_can_be_chosen(isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLAXEN_CPU_ISA", isa)
    assert set_up_cpu(2).isa == isa
    if isa == "xla":
        assert backend_name() == "reference"
    else:
        assert cpu_library.isa() == isa
        assert backend_name() == "auto"


def test_the_best_one_is_used_unless_told_otherwise() -> None:
    assert set_up_cpu(None).isa == BEST
    assert backend_name() == "auto"


def test_threads_are_those_of_the_kernels_and_of_xla() -> None:
    assert set_up_cpu(3).num_threads == 3
    assert not cpu_library.is_built() or cpu_library.num_threads() == 3
    assert os.environ["PJRT_NPROC"] == "3"


def test_without_the_option_there_is_a_thread_for_each_cpu() -> None:
    assert set_up_cpu(None).num_threads == len(os.sched_getaffinity(0))
    assert os.environ["PJRT_NPROC"] == ""  # XLA's default is the same


@pytest.mark.parametrize("command", ["serve", "generate", "bench", "chat"])
def test_an_instruction_set_that_is_none_is_refused(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FLAXEN_CPU_ISA", "sse9")
    more = {"generate": ["-p", "a"], "serve": ["--port", "0"]}.get(command, [])
    assert main([command, "m", *more]) == 2
    assert capsys.readouterr().err == (
        "error: FLAXEN_CPU_ISA=sse9: there is no CPU ISA 'sse9': use one of amx, avx512_bf16, "
        "avx512, avx2, portable, xla\n"
    )


@pytest.mark.parametrize(
    ("cpu", "text"),
    [
        (Cpu(isa="avx2", num_threads=2), "CPU kernels: avx2, 2 threads"),
        (Cpu(isa="xla", num_threads=1), "CPU kernels: none, XLA with 1 thread"),
        (
            Cpu(isa="xla", num_threads=4, missing_reason="there is no compiler."),
            "CPU kernels: none, XLA with 4 threads. This is the slower path: there is no compiler.",
        ),
    ],
)
def test_what_is_said(cpu: Cpu, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert describe(cpu) == text
    announce(cpu)
    assert capsys.readouterr().err == text + "\n"
    announce(dataclasses.replace(cpu, accelerator="NVIDIA H100 (gpu), 79.2 GiB"))
    assert capsys.readouterr().err == "device: NVIDIA H100 (gpu), 79.2 GiB\n"
    announce(dataclasses.replace(cpu, overlooked="this machine has a TPU, which ..."))
    assert capsys.readouterr().err == f"{text}\nthis machine has a TPU, which ...\n"


def test_an_installation_without_the_library_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cpu = set_up_cpu(None, is_built=False)
    assert cpu.isa == "xla"
    assert "no C++ compiler (GCC 11 or newer, or Clang) was found" in describe(cpu)
    assert "--force-reinstall" in describe(cpu)
    monkeypatch.setenv("FLAXEN_CPU_ISA", "portable")
    with pytest.raises(ValueError, match="the CPU ISA portable was asked for, but there is no lib"):
        set_up_cpu(None, is_built=False)


@pytest.mark.parametrize("threads", ["0", "-1", "two"])
def test_wrong_threads_are_refused(threads: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "m", "--threads", threads]) == 2
    assert "Invalid value for '--threads'" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["serve", "generate", "bench", "chat", "eval", "parity"])
def test_a_device_that_is_not_there_is_refused(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    more = {"generate": ["-p", "a"], "serve": ["--port", "0"], "eval": ["--data", "x.txt"]}
    assert main([command, "m", "--device", "npu", *more.get(command, [])]) == 2
    assert "the device 'npu' is not known: use one of auto, cpu, " in capsys.readouterr().err
