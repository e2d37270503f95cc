"""What a model wrote, on a terminal."""

from __future__ import annotations

from flaxen.cli.printing import without_controls


def test_a_model_can_not_change_the_terminal() -> None:
    clipboard = "\x1b]52;c;cm0gLXJm\x07"
    assert without_controls(f"a{clipboard}b\r\x08\x9b31mc") == "a]52;c;cm0gLXJmb31mc"
    kept = "Zwei\tZeilen\nund “Ümlaute” 🌍\u200d\n"
    assert without_controls(kept) == kept
