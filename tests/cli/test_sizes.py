"""Sizes in bytes, as people write them."""

import pytest

from flaxen.cli.sizes import parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("2GiB", 2 * 2**30),
        ("512 MiB", 512 * 2**20),
        ("1.5GB", 1_500_000_000),
        ("64kib", 65_536),
        ("1TB", 10**12),
        (" 7 ", 7),
        ("7B", 7),
    ],
)
def test_a_size_with_its_unit(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "-1GiB", "2 gigs", "1e9", "2GiB!", "nan"])
def test_what_is_not_a_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a size: write a number and a unit, as 2GiB"):
        parse_size(text)


@pytest.mark.parametrize("text", ["0", "0.1B", "0GiB"])
def test_nothing_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"a size must be at least 1 byte, got '0"):
        parse_size(text)
