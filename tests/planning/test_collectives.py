"""What a compiled program sends, read in made-up programs that have every form once."""

from __future__ import annotations

import pytest

from flaxen.planning.collectives import Collective, read_collectives, sent_bytes

LOOPS = """
HloModule jit_step, is_scheduled=true

%add (x: f32[], y: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%x, %y)
}

%body (state: (s32[], f32[64])) -> (s32[], f32[64]) {
  %all-reduce.1 = f32[64]{0:T(128)S(1)} all-reduce(%each), channel_id=1, \
replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}, to_apply=%add, metadata={op_name="body"}
  ROOT %tuple = (s32[], f32[64]) tuple(%next, %all-reduce.1)
}

%condition (state: (s32[], f32[64])) -> pred[] {
  ROOT %less = pred[] compare(%count, %limit), direction=LT
}

%cheap (x: f32[64]) -> f32[64] {
  ROOT %all-gather.9 = f32[8]{0} all-gather(%x), replica_groups=[4,2]<=[8], dimensions={0}
}

%dear (x: f32[64]) -> f32[64] {
  ROOT %all-gather.8 = f32[4096]{0} all-gather(%x), replica_groups=[4,2]<=[8], dimensions={0}
}

%wrapped (x: bf16[4,16]) -> bf16[2,16] {
  ROOT %scatter = bf16[2,16]{1,0} reduce-scatter(%x), replica_groups={{0,1},{2,3}}, to_apply=%add
}

ENTRY %main (p0: f32[64]) -> f32[64] {
  %while.3 = (s32[], f32[64]{0}) while(%init), condition=%condition, body=%body, \
backend_config={"known_trip_count":{"n":"32"}}
  %pick = f32[64]{0} conditional(%which, %p0, %p0), branch_computations={%dear, %cheap}
  %started = ((bf16[4,16]), bf16[2,16], s32[]) async-start(%p0), calls=%wrapped
  %permute = (f32[16]{0}, f32[16]{0}, u32[], u32[]) collective-permute-start(%p0), \
source_target_pairs={{0,1},{1,0}}
  %exchanged = (s8[8]{0}, s8[8]{0}) all-to-all(%p0, %p0), replica_groups={}
  ROOT %done = f32[64]{0} copy(%permute)
}
"""


def test_each_run_of_a_loop_counts_and_the_cheapest_branch() -> None:
    found = {each.kind: each for each in read_collectives(LOOPS, 8)}
    assert found == {
        each.kind: each
        for each in (
            Collective(kind="all-reduce", num_devices=4, count=32, num_bytes=32 * 256),
            Collective(kind="all-gather", num_devices=2, count=1, num_bytes=32),
            Collective(kind="reduce-scatter", num_devices=2, count=1, num_bytes=64),
            Collective(kind="collective-permute", num_devices=8, count=1, num_bytes=64),
            Collective(kind="all-to-all", num_devices=8, count=1, num_bytes=16),
        )
    }


def test_those_of_a_kind_and_a_group_are_one() -> None:
    text = """
ENTRY main (p: f32[4]) -> f32[4] {
  a = f32[4]{0} all-reduce(p), replica_groups={{0,1}}, to_apply=add
  b = (bf16[4]{0}, s4[3]{0}) all-reduce(p, p), replica_groups={{0,1}}, to_apply=add
  ROOT c = pred[5]{0} all-reduce-start(p), replica_groups={{0,1,2,3}}, to_apply=add
}
"""
    assert read_collectives(text, 4) == (
        Collective(kind="all-reduce", num_devices=2, count=2, num_bytes=16 + 8 + 2),
        Collective(kind="all-reduce", num_devices=4, count=1, num_bytes=5),
    )


def test_a_sum_that_is_cut_is_a_reduce_scatter() -> None:
    text = """
%all-reduce-scatter.2 (input: bf16[64,4]) -> bf16[8,4] {
  %all-reduce.1 = bf16[64,4]{0,1} all-reduce(%input), replica_groups=[1,8]<=[8], to_apply=%add
  ROOT %part = bf16[8,4]{0,1} dynamic-slice(%all-reduce.1, %index, %zero)
}
ENTRY %main (p: bf16[64,4]) -> bf16[8,4] {
  ROOT %fusion = bf16[8,4]{0,1:T(8,128)} fusion(%p), kind=kCustom, calls=%all-reduce-scatter.2
}
"""
    assert read_collectives(text, 8) == (
        Collective(kind="reduce-scatter", num_devices=8, count=1, num_bytes=64),
    )


def test_a_program_of_one_device_sends_nothing() -> None:
    assert (
        read_collectives("ENTRY main (p: f32[4]) -> f32[4] {\n  ROOT c = f32[4] copy(p)\n}", 1)
        == ()
    )


@pytest.mark.parametrize(
    ("kind", "sent"),
    [
        ("all-reduce", 2 * 75),
        ("all-gather", 75),
        ("reduce-scatter", 300),
        ("all-to-all", 75),
        ("collective-permute", 100),
    ],
)
def test_a_ring_of_four_sends(kind: str, sent: float) -> None:
    assert sent_bytes(Collective(kind=kind, num_devices=4, count=1, num_bytes=100)) == sent
