"""What `make aot-cuda` compiles; that it compiles is for it to show, with a gigabyte of wheels."""

from __future__ import annotations

import jax
import pytest

from tools.aot_cuda.__main__ import check_copies
from tools.aot_cuda.programs import programs


def test_programs_have_names_of_their_own_and_none_is_lowered_yet() -> None:
    names = [program.name for program in programs(jax.devices())]
    assert sorted(set(names)) == sorted(names)
    for kind in ("", "experts, "):
        assert any("tensor=2" in name for name in names if name.startswith(f"step gpu: {kind}"))


def test_a_program_that_copies_the_pages_is_refused() -> None:
    check_copies("  %copy.1 = f32[16,32000]{1,0} copy(%other)")
    with pytest.raises(RuntimeError, match=r"copies an array \[4096,16,8,128\], as large as"):
        check_copies("  %copy.1 = bf16[4096,16,8,128]{3,2,1,0} copy(%pages)")
