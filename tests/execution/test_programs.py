"""Which programs are compiled when, and which one a step runs."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from flaxen.execution.programs import Program, Programs, plan_programs
from flaxen.execution.shapes import Shape


def shape(num_tokens: int) -> Shape:
    return Shape(num_tokens=num_tokens, num_seqs=min(num_tokens, 64))


def program(num_tokens: int, *, has_adapters: bool = False) -> Program:
    return Program(shape=shape(num_tokens), has_adapters=has_adapters)


SHAPES = [shape(n) for n in (1, 16, 512)]


def make(*compiled: Program, may_pad: bool = True) -> Programs:
    programs = Programs((), may_pad=may_pad)
    for each in compiled:
        programs.compile(each, lambda: None)
    return programs


def test_the_first_programs_cover_every_step() -> None:
    first, later = plan_programs(SHAPES, has_adapters=False, may_pad=True)
    assert first == (program(16), program(512))
    assert later == (program(1),)
    first, later = plan_programs(SHAPES, has_adapters=True, may_pad=True)
    assert first == (program(16, has_adapters=True), program(512, has_adapters=True))
    assert [each.has_adapters for each in later] == [False, False, False, True]
    first, _ = plan_programs(
        [shape(n) for n in (1, 16, 64, 128, 512)], has_adapters=False, may_pad=True
    )
    assert first == (program(16), program(512))
    for number in (1, 2):
        first, later = plan_programs(SHAPES[:number], has_adapters=False, may_pad=True)
        assert [each.shape for each in first] == SHAPES[:number]
        assert later == ()


def test_the_first_programs_cover_adapters_too() -> None:
    first, _ = plan_programs(SHAPES, has_adapters=True, may_pad=True)
    for size in SHAPES:
        for kind in (False, True):
            needed = Program(shape=size, has_adapters=kind)
            assert any(each.covers(needed) for each in first)


def test_programs_with_grammars_are_planned_last_and_where_steps_are_padded() -> None:
    first, later = plan_programs(SHAPES, has_adapters=True, may_pad=True, has_grammars=True)
    assert not any(each.has_grammar for each in first)
    assert later[-3:] == tuple(
        replace(program(size, has_adapters=True), has_grammar=True) for size in (1, 16, 512)
    )
    _, unpadded = plan_programs(SHAPES, has_adapters=True, may_pad=False, has_grammars=True)
    assert not any(each.has_grammar for each in unpadded)


def test_without_padding_the_first_programs_are_a_single_requests() -> None:
    first, later = plan_programs(SHAPES, has_adapters=True, may_pad=False)
    assert first == (program(1), program(512))
    assert len(later) == 4
    assert plan_programs(SHAPES[:1], has_adapters=False, may_pad=False) == ((program(1),), ())


def test_a_step_runs_the_cheapest_program_that_is_compiled_and_covers_it() -> None:
    small, large = program(16, has_adapters=True), program(512, has_adapters=True)
    programs = make(large, small)
    assert programs.choose(program(1)) == small
    assert programs.choose(program(512)) == large
    programs.compile(program(1), lambda: None)
    assert programs.choose(program(1)) == program(1)
    assert programs.choose(program(1, has_adapters=True)) == small


def test_a_step_that_was_padded_for_long_enough_waits_for_its_own_program() -> None:
    programs = make(program(512))
    chosen = [programs.choose(program(64)) for _ in range(20)]
    assert chosen == [program(512)] * 18 + [program(64)] * 2  # 448 tokens each, 8192 at most
    assert programs.choose(program(128)) == program(512)  # each counts its own
    beside = Programs((), may_pad=True, are_compiled_beside=True)
    beside.compile(program(512), lambda: None)
    assert {beside.choose(program(64)) for _ in range(100)} == {program(512)}


def test_a_step_that_nothing_covers_waits_for_its_own_program() -> None:
    programs = make(program(512), program(1, has_adapters=True))
    needed = program(16, has_adapters=True)
    assert programs.choose(needed) == needed
    with_grammar = replace(program(16), has_grammar=True)
    assert programs.choose(with_grammar) == with_grammar


def test_a_program_with_a_grammar_is_padded_only_until_its_own_is_compiled() -> None:
    large = replace(program(512), has_grammar=True)
    small = replace(program(16), has_grammar=True)
    for planned, chosen in (([small], large), ([], small)):
        programs = Programs(planned, may_pad=True)
        programs.compile(large, lambda: None)
        assert programs.choose(small) == chosen


def test_without_padding_each_step_runs_its_own_program() -> None:
    programs = make(program(512, has_adapters=True), may_pad=False)
    assert programs.choose(program(16)) == program(16)
    assert not programs.is_ready(program(16))


def test_planned_programs_are_compiled_once_and_counted() -> None:
    counts: list[tuple[int, int]] = []
    planned = [program(512), program(16), program(1)]
    programs = Programs(planned, may_pad=True, on_compiled=lambda *each: counts.append(each))
    compiled: list[Program] = []
    programs.compile_several(2, compiled.append)
    assert set(compiled) == set(planned[:2])
    programs.compile(program(1), lambda: None)  # a step needed it
    assert programs.compile_next(compiled.append)
    assert not programs.compile_next(compiled.append)
    assert len(compiled) == 2
    assert counts == [(1, 3), (2, 3), (3, 3)]


def test_a_program_that_another_thread_compiles_is_waited_for() -> None:
    programs = make()
    may_end, begun = threading.Event(), threading.Event()
    calls: list[str] = []

    def first() -> None:
        begun.set()
        may_end.wait(5)
        calls.append("compiles")

    other = threading.Thread(target=lambda: programs.compile(program(1), first))
    other.start()
    assert begun.wait(5)
    assert not programs.is_ready(program(1))
    threading.Timer(0.05, may_end.set).start()
    programs.compile(program(1), lambda: calls.append("runs"))
    other.join()
    assert calls == ["compiles", "runs"]


def test_a_program_that_failed_to_compile_is_tried_again() -> None:
    programs = make()

    def fail() -> None:
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        programs.compile(program(1), fail)
    assert not programs.is_ready(program(1))
    assert programs.compile(program(1), lambda: "ran") == "ran"
    assert programs.is_ready(program(1))


def test_after_a_change_of_parameters_nothing_is_compiled() -> None:
    programs = Programs([program(16), program(1)], may_pad=True)
    programs.compile_next(lambda each: None)
    programs.forget()
    assert programs.choose(program(1)) == program(1)
    assert not programs.compile_next(lambda each: None)


def test_a_program_that_is_forgotten_while_it_fails_to_compile_says_why() -> None:
    programs = make()

    def fail() -> None:
        programs.forget()  # another thread has given new parameters
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        programs.compile(program(1), fail)
