"""`flaxen route test`: agreement with probes is counted, and what needs a model never as passed."""

from __future__ import annotations

from pathlib import Path

import pytest

from flaxen.cli.route.probes import read_probes
from tests.cli.route.files import file, run
from tests.router.signals.test_probes import assets

__all__ = ["file"]

PROBES = """\
schema_version: v1
fixtures: {images: {dot: {media_type: image/png, data_base64: "QUJD\\n REVG"}}}
decisions:
  - id: proofs
    expected_recipe: own
    expected_decision: hard
    variants:
      - {id: plain, query: prove it}
      - {id: padded, query: prove, repeat: 2, padding: {text: x, repeat: 3, placement: around}}
      - id: long
        messages:
          - {role: assistant, content: a}
          - role: user
            content: [{type: image_fixture, fixture: dot}, {type: text, text: prove}]
        generated_text: {message_index: 1, content_index: 2, target_text_bytes: 11, text: é}
        tools: [{type: function, function: {name: f}}]
        tool_choice: none
  - id: laws
    expected_recipe: own
    expected_decision: legal
    variants: [{id: one, query: Is it allowed?}]
"""


def rows(lines: list[str]) -> list[list[str]]:
    return [[c.strip() for c in line.strip("│").split("│")] for line in lines if "│" in line]


def test_probes_are_counted(capsys: pytest.CaptureFixture[str], file: Path, tmp_path: Path) -> None:
    probes = tmp_path / "probes.yaml"
    probes.write_text(PROBES)
    code, lines = run(capsys, "test", file, probes, "--verbose")
    assert code == 0
    assert lines[0] == "laws/one: needs domain:law"
    assert rows(lines) == [["own", "3", "0", "1"], ["all", "3", "0", "1"]]
    probes.write_text(PROBES.replace("decision: hard", "decision: legal"))
    code, lines = run(capsys, "test", file, probes)
    assert code == 1
    assert lines[0] == "proofs/plain: expected legal, got hard"
    assert rows(lines)[-1] == ["all", "0", "3", "1"]
    probes.write_text(PROBES.replace("recipe: own", "recipe: other"))
    code, lines = run(capsys, "test", file, probes)
    assert (code, lines[0]) == (1, "proofs/plain: there is no recipe other")
    assert rows(lines)[-1] == ["all", "0", "4", "0"]


def test_the_requests_of_probes() -> None:
    plain, padded, long, _ = (probe.request for probe in read_probes(PROBES))
    assert plain.current_user == "prove it"
    assert padded.current_user == "x\nprove\nprove\nx\nx"
    assert long.current_user == "prove ééé"  # 11 bytes without the space between parts
    assert (long.messages[1].num_images, long.tool_choice) == (1, "none")
    assert [tool.name for tool in long.tools] == ["f"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1", "has a list `decisions`"),
        ("decisions: []", "has no variants"),
        ("decisions: [{id: d, variants: [{id: v}]}]", "the variant d/v can't be read"),
        ("decisions: [{id: d, variants: [{id: v, query: 1}]}]", "the variant d/v can't be read"),
    ],
)
def test_what_is_no_file_of_probes(
    capsys: pytest.CaptureFixture[str], file: Path, tmp_path: Path, text: str, words: str
) -> None:
    probes = tmp_path / "probes.yaml"
    probes.write_text(text)
    code, lines = run(capsys, "test", file, probes)
    assert code == 2
    assert words in lines[0]


def test_the_references_own_probes(capsys: pytest.CaptureFixture[str]) -> None:
    """Where the free signals decide, they do as expected, in 63 of the 315 variants."""
    code, lines = run(capsys, "test", assets() / "config.yaml", assets() / "probes.yaml")
    assert code == 0
    assert rows(lines)[-1] == ["all", "63", "0", "252"]
