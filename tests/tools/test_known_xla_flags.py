"""Flags of XLA that are not known are left out."""

from tools.known_xla_flags import known


def test_unknown_flags_are_left_out() -> None:
    level = "--xla_backend_optimization_level=0"
    assert known([level, "--xla_no_such_flag=1"]) == [level]
