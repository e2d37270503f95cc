"""Compiles each program for each target, prints a line for each, and stops at the first that fails.

    make aot-cuda                               # an H100, an H200, and lowering for AMD
    make aot-cuda ARGS="--target h100 --only step"

Nothing is executed: a program that compiles has instructions for the GPU, fits its registers and
shared memory, and copies no pages.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
import time

import jax

from tools.aot_cuda.programs import NUM_PAGES, PAGE_SIZE, amd_programs, programs
from tools.aot_cuda.targets import AMD, TARGETS, devices, lowering_for

_COPY = re.compile(r" = \w+\[([\d,]*)\]\S* copy\(")
_KERNEL = re.compile(r'custom_call_target="(?:__gpu\$xla\.gpu\.triton|triton_kernel_call_ffi)"')


def main(argv: list[str] | None = None) -> int:
    """Compiles; returns 0 if all programs did."""
    parser = argparse.ArgumentParser(prog="make aot-cuda")
    parser.add_argument("--target", action="append", choices=[*TARGETS, "amd"], default=None)
    parser.add_argument("--only", default="", help="programs whose name contains this")
    args = parser.parse_args(argv)
    print(f"jax {jax.__version__}", flush=True)
    for name in args.target or [*TARGETS, "amd"]:
        is_amd = name == "amd"
        print("AMD, not compiled:" if is_amd else f"{TARGETS[name].name}:", flush=True)
        count = 0
        for program in amd_programs() if is_amd else programs(devices(TARGETS[name], 2)):
            if args.only in program.name:
                with lowering_for(AMD if is_amd else TARGETS[name].name):
                    lowered = program.lower()
                said = _lowered(lowered) if is_amd else _compile(lowered)
                print(f"  {program.name}: {said}", flush=True)
                count += 1
        if not count:
            print(f"no program has {args.only!r} in its name", file=sys.stderr)
            return 1
        print(f"  {count} programs", flush=True)
    return 0


def _lowered(lowered: jax.stages.Lowered) -> str:
    """Describes a lowered program. Pallas raises an error for what Triton does not have."""
    return f"{lowered.as_text().count('xla.gpu.triton')} Triton kernels"


def _compile(lowered: jax.stages.Lowered) -> str:
    """Compiles a program and describes it. XLA raises an error for what does not compile."""
    start_s = time.perf_counter()
    compiled = lowered.compile()
    text: str = compiled.as_text() or ""
    check_copies(text)
    memory = compiled.memory_analysis()
    scratch = "" if memory is None else f", {memory.temp_size_in_bytes / 2**20:.1f} MiB scratch"
    kernels, copies = len(_KERNEL.findall(text)), len(_COPY.findall(text))
    took_s = time.perf_counter() - start_s
    return f"{kernels} Triton kernels, {copies} copies{scratch}, {took_s:.1f} s"


def check_copies(text: str) -> None:
    """Refuses a compiled program that copies the pages, which it should write in place.

    Args:
      text: its HLO.

    Raises:
      RuntimeError: it copies an array of their size.
    """
    for sizes in _COPY.findall(text):
        if math.prod(map(int, filter(None, sizes.split(",")))) >= NUM_PAGES * PAGE_SIZE * 64:
            raise RuntimeError(
                f"the compiled program copies an array [{sizes}], as large as the pages: they are "
                "no longer written in place"
            )


if __name__ == "__main__":
    sys.exit(main())
