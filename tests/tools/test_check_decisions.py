"""The check that the index of the decision records is complete."""

from pathlib import Path

import pytest

from tools.check_decisions import check

RECORDS = ("0001-one.md", "0002-two.md")
INDEX = "# Decisions\n\n- [0001](0001-one.md) One.\n- [0002](0002-two.md) Two.\n"


def write(folder: Path, index: str, records: tuple[str, ...] = RECORDS) -> Path:
    for name in records:
        (folder / name).write_text("# A record\n")
    (folder / "README.md").write_text(index)
    return folder


def test_a_whole_index_passes(tmp_path: Path) -> None:
    assert check(write(tmp_path, INDEX)) == []


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (INDEX.replace("- [0002](0002-two.md) Two.\n", ""), "0002-two.md is not in the index"),
        (INDEX + "- [0001](0001-one.md) Again.\n", "lists 0001-one.md 2 times"),
        (INDEX + "- [0003](0003-three.md) Three.\n", "lists 0003-three.md, which is no file"),
        (INDEX.replace("[0002]", "[0003]"), "shows 0002-two.md as 0003"),
        (INDEX.replace(" Two.", ""), "0002-two.md is not in the index"),
    ],
)
def test_each_fault_is_named(tmp_path: Path, index: str, message: str) -> None:
    offences = check(write(tmp_path, index))
    assert len(offences) == 1
    assert message in offences[0]


def test_a_number_is_given_once(tmp_path: Path) -> None:
    index = INDEX + "- [0002](0002-too.md) Too.\n"
    assert check(write(tmp_path, index, (*RECORDS, "0002-too.md"))) == [
        "two records have the number 0002: give one of them the next free number"
    ]


def test_the_index_of_this_project_is_whole() -> None:
    assert check(Path(__file__).parents[2] / "docs" / "decisions") == []
