"""The kernels' tests on AVX-512 and AMX where the machine lacks them, in a build of its own.

The compiler lowers the wide vectors, so that what is tested is our code and not the hardware.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import jaxlib
import pytest

from flaxen.kernels import cpu_library

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "emulated"  # kept, so that only what changed is compiled again
# The tools that pip brought come first.
PATH = os.pathsep.join((sysconfig.get_path("scripts"), os.environ["PATH"]))
LACKING = [
    isa for isa in ("avx512", "avx512_bf16", "amx") if isa not in cpu_library.supported_isas()
]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not cpu_library.is_built(), reason="the library was not built"),
    pytest.mark.skipif("FLAXEN_TEST_EMULATED" not in os.environ, reason="run make test-emulated"),
]


@pytest.fixture(scope="module")
def library() -> Path:
    generator = ["-G", "Ninja"] if shutil.which("ninja", path=PATH) else []
    configure = [
        "cmake", "-S", str(ROOT / "csrc"), "-B", str(BUILD), *generator, "-DFLAXEN_EMULATE=ON",
        f"-DFLAXEN_FFI_INCLUDE={Path(jaxlib.__file__).parent / 'include'}",
    ]  # fmt: skip
    for command in (configure, ["cmake", "--build", str(BUILD), "-j2"]):
        done = subprocess.run(
            command, env={**os.environ, "PATH": PATH}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
    return BUILD / "libflaxen_native.so"


@pytest.mark.parametrize("lacking", LACKING)
def test_the_kernels_on_what_the_machine_lacks(lacking: str, library: Path) -> None:
    # Equality with the reference, and of bits in any batch: the rest is the same on every ISA. Only
    # linear has code for bfloat16 and for AMX; everything else runs AVX-512's there.
    chosen = f"{lacking} and (bits or equals) and not filters"
    pattern = "test_cpu_*.py" if lacking == "avx512" else "test_cpu_linear*.py"
    rooms = (ROOT / "tests" / room for room in ("kernels", "attention_kernels"))
    files = sorted(str(path) for room in rooms for path in room.glob(pattern))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", chosen, *files],
        env={**os.environ, "FLAXEN_TEST_LIBRARY": str(library)},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    # 5 is that no test was selected.
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-5_000:]
    assert " passed" in done.stdout
