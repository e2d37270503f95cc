"""Targets by name. What compiles for them: tests/tpu."""

import pytest

from flaxen.sharding.topologies import compile_devices, find_target


@pytest.mark.parametrize(
    ("name", "arrangement", "num_devices"),
    [
        ("v5e-1", "1x1", 1),
        ("v5e-8", "2x4", 8),
        ("v6e-8", "2x4", 8),
        ("v6e-256", "16x16", 256),
        ("v4-8", "2x2x1", 4),
        ("v5p-8", "2x2x1", 4),
        ("v5p-16", "2x2x2", 8),
        ("tpu7x-8", "2x2x1", 8),
    ],
)
def test_a_target_counts_cores(name, arrangement, num_devices):
    target = find_target(name)
    assert (target.arrangement, target.num_devices) == (arrangement, num_devices)
    assert target.chip.name == name.split("-")[0]


def test_a_chip_that_is_not_known_is_refused():
    with pytest.raises(ValueError, match=r"'h100-8' is not a TPU .* v4, v5e, .* as v6e-8"):
        find_target("h100-8")


@pytest.mark.parametrize("name", ["v6e", "v6e-7", "v6e-x", "v6e--8"])
def test_a_size_that_does_not_exist_is_refused(name):
    with pytest.raises(ValueError, match=f"no slice '{name}': name one of v6e-1, v6e-4, v6e-8"):
        find_target(name)


def test_a_machine_without_the_compiler_is_told_what_to_install():
    with pytest.raises(ValueError, match=r"compiled for v6e-8: .* pip install 'flaxen\[tpu\]'"):
        compile_devices(find_target("v6e-8"), is_installed=False)
