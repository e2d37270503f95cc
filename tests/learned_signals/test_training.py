"""Training: the same head for the same seed, groups on one side alone, probabilities that mean what
they say, and thresholds that keep false alarms down."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flaxen.learned_signals.examples import Example, made_tasks, make_examples, read_examples
from flaxen.learned_signals.fitting import cross_entropy, fit, fit_temperature, threshold_for
from flaxen.learned_signals.harm import fit_to_pieces, with_long, worst
from flaxen.learned_signals.head import TASKS, Activation
from flaxen.learned_signals.head_file import load_head, save_head
from flaxen.learned_signals.measuring import calibration_curve
from flaxen.learned_signals.training import divide, train
from flaxen.learned_signals.windows import unit
from tests.learned_signals.conftest import MakeEncoder

RNG = np.random.default_rng(0)


def examples() -> list[Example]:
    """Texts whose label is their last word; a group has the same words before it."""
    words = ("a", "b", "c", "sky", "sea", "is", "blue", "deep", "red", "not")
    return [
        Example(f"{first} {second} {label} {label} {label}", (label,), f"{first} {second}")
        for label in ("fish", "the")
        for first in words
        for second in words[:4]
    ]


def test_training_is_the_same_for_a_seed_and_kept_in_its_file(
    make_encoder: MakeEncoder, tmp_path: Path
) -> None:
    encoder = make_encoder()
    for number in range(2):
        head = asyncio.run(train("domain", examples(), encoder))
        save_head(head, tmp_path / f"{number}")
    assert (tmp_path / "0").read_bytes() == (tmp_path / "1").read_bytes()
    other = asyncio.run(train("domain", examples(), encoder, seed=1))
    assert not np.array_equal(other.weights, head.weights)
    assert head.report["accuracy"] == 1.0
    read = load_head(tmp_path / "0")
    vectors = RNG.normal(size=(5, head.weights.shape[1])).astype(np.float32)
    np.testing.assert_array_equal(read(vectors), head(vectors))
    assert (read.thresholds, read.report) == (head.thresholds, head.report)


def test_too_few_groups_are_refused(make_encoder: MakeEncoder) -> None:
    few = [Example(word, (word,), word) for word in ("sky", "sea")] * 9
    with pytest.raises(ValueError, match="seven groups of examples"):
        asyncio.run(train("domain", few, make_encoder()))


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 2)), min_size=1), st.integers(0, 9))
def test_a_group_is_in_one_part(drawn: list[tuple[int, int]], seed: int) -> None:
    some = [Example(str(i), (f"{label}",), f"{group}") for i, (group, label) in enumerate(drawn)]
    parts = divide(some, seed)
    part_of = {example.group: part for example, part in zip(some, parts, strict=True)}
    assert parts == [part_of[example.group] for example in some]
    assert divide(some[::-1], seed)[::-1] == parts or len({e.labels for e in some}) > 1


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_the_derivative_of_the_cross_entropy(activation: Activation) -> None:
    logits = RNG.normal(size=(6, 3))
    targets = np.eye(3)[[0, 1, 2, 0, 1, 2]]
    shares = RNG.uniform(size=(6, 1)) * np.ones((6, 3))
    _, derivative = cross_entropy(logits, targets, activation, shares)
    step = 1e-6
    for place in np.ndindex(logits.shape):
        moved = [logits.copy(), logits.copy()]
        moved[0][place] += step
        moved[1][place] -= step
        above, below = (cross_entropy(each, targets, activation, shares)[0] for each in moved)
        assert (above - below) / (2 * step) == pytest.approx(derivative[place], abs=1e-6)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_a_temperature_undoes_logits_that_are_too_large(activation: Activation) -> None:
    """Labels are drawn with the probabilities of logits; five times those have a temperature of
    about five."""
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(4000, 2)) * 2
    if activation == "softmax":
        first = rng.uniform(size=4000) < 1 / (1 + np.exp(logits[:, 1] - logits[:, 0]))
        targets = np.stack([first, ~first], axis=1).astype(float)
    else:
        targets = (rng.uniform(size=logits.shape) < 1 / (1 + np.exp(-logits))).astype(float)
    found = fit_temperature((5 * logits).astype(np.float32), targets, activation)
    assert found == pytest.approx(5, rel=0.1)


def test_decay_makes_weights_small_and_rare_labels_count() -> None:
    x = RNG.normal(size=(200, 4)).astype(np.float32)
    targets = np.eye(2)[(np.arange(200) < 190).astype(int)]
    x[:190, 0] += 2
    sizes = [np.abs(fit(x, targets, "softmax", decay)[0]).sum() for decay in (1e-4, 1e-2, 1.0)]
    assert sizes[0] > sizes[1] > sizes[2]
    weights, bias = fit(x, targets, "softmax", 1e-2)
    right = (x @ weights.T + bias).argmax(axis=1) == targets.argmax(axis=1)
    assert right[190:].mean() > 0.7


@settings(deadline=None)
@given(st.lists(st.floats(0, 1, width=32), min_size=1), st.floats(0, 0.5))
def test_a_threshold_keeps_false_alarms_down(shares: list[float], rate: float) -> None:
    threshold = threshold_for(shares, rate)
    reached = np.mean(np.asarray(shares) >= threshold)
    assert reached <= rate
    lower = [share for share in shares if share < threshold]
    if lower:  # the next lower one would let too many through
        assert np.mean(np.asarray(shares) >= max(lower)) > rate


def test_a_calibration_curve_counts_every_text_once() -> None:
    shares = RNG.uniform(size=5000).astype(np.float32)
    right = RNG.uniform(size=5000) < shares
    curve = calibration_curve(shares, right)
    assert sum(point["texts"] for point in curve) == 5000
    for point in curve:
        assert point["right"] == pytest.approx(point["probability"], abs=0.08)


def test_templates_give_the_same_examples_for_a_seed_and_some_for_each_part() -> None:
    assert set(made_tasks()) <= set(TASKS)
    for task in made_tasks():
        made = make_examples(task)
        assert made == make_examples(task)
        assert len({example.text for example in made}) > 0.9 * len(made)
        assert set(divide(made, 0)) == {"fitted", "calibration", "held out"}
    with pytest.raises(ValueError, match="no templates for the task pii"):
        make_examples("pii")


def test_records_are_read_and_others_refused_with_their_line(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    records = [
        {"text": "a", "label": "x"},
        {"text": "b", "labels": ["x", "y"], "group": "g"},
        {"text": "c", "labels": []},
    ]
    path.write_text("\n\n".join(map(json.dumps, records)))
    assert read_examples(path) == [
        Example("a", ("x",), "a"),
        Example("b", ("x", "y"), "g"),
        Example("c", (), "c"),
    ]
    for line in ("{", "[]", '{"text": 1, "label": "x"}', '{"text": "a", "label": 1}'):
        path.write_text(json.dumps(records[0]) + "\n" + line)
        with pytest.raises(ValueError, match="line 2"):
            read_examples(path)
    path.write_text("\n")
    with pytest.raises(ValueError, match="has no examples"):
        read_examples(path)


def test_a_head_of_harm_learns_which_piece_of_a_text_is_harmful() -> None:
    """Texts of three pieces, of which one says harm, and harmless texts of the other pieces."""
    calm = unit(np.array([[1, 0.2, 0], [1, -0.2, 0], [1, 0, 0.1]], np.float32))
    harm = unit(np.array([[0.3, 0, 1]], np.float32))
    labels = ("benign", "jailbreak")
    attacks = [np.concatenate([calm[:place], harm, calm[place:]]) for place in range(4)] * 5
    pieces, targets = [*attacks, *[calm] * 20], np.eye(2)[[1] * 20 + [0] * 20]
    weights, bias = fit_to_pieces(pieces, targets, labels, "softmax", 1e-4)
    rows = worst(pieces, weights, bias, labels)
    assert (rows[:20] == harm).all()
    margins = (rows @ weights.T + bias) @ [-1, 1]
    assert margins[:20].min() > 2 > -2 > margins[20:].max()
    some, of = with_long(pieces, targets, labels, 0)
    assert {len(each) for each in some[40:]} == {24}  # eight texts of three pieces
    np.testing.assert_array_equal(of[40:], np.eye(2)[[0] * 20])


def test_one_half_has_the_rate_of_false_alarms_that_was_asked_for(
    make_encoder: MakeEncoder,
) -> None:
    words = ("a", "b", "c", "sky", "sea", "is", "blue", "deep", "red", "not")
    some = [
        Example(f"{first} {second} {end} .", (label,), f"{first} {second} {label}")
        for label, end in (("benign", "fish"), ("jailbreak", "the"))
        for first in words
        for second in words[:4]
    ]
    head = asyncio.run(train("jailbreak", some, make_encoder(), false_alarms=0.0))
    assert head.thresholds["jailbreak"] == pytest.approx(0.5, abs=1e-4)
    assert set(head.suspicions) == {"jailbreak"}
