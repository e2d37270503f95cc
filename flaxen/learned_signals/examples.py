"""Examples to train heads with: read from JSONL, or made of templates (data/, decision 0354)."""

from __future__ import annotations

import itertools
import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent / "data"
_HARMLESS = 0.5  # the share of texts that get harmless sentences, where a task has some
_MOST_SENTENCES = 8


@dataclass(frozen=True)
class Example:
    """A text, the labels it has, and the group of texts that are alike: a group is either trained
    on or held out."""

    text: str
    labels: tuple[str, ...]
    group: str


def made_tasks() -> list[str]:
    """The tasks for which there are templates."""
    return sorted(path.stem for path in DATA.glob("*.json"))


def make_examples(task: str, seed: int = 0) -> list[Example]:
    """Examples from the templates of a task: the same for a seed.

    Raises:
      ValueError: there are none for this task.
    """
    if task not in made_tasks():
        raise ValueError(
            f"there are no templates for the task {task}: give a file of JSONL, or use one of "
            f"{', '.join(made_tasks())}"
        )
    made = json.loads((DATA / f"{task}.json").read_text("utf-8"))
    if "prose" in made:  # the label that plain sentences have
        prose = (DATA / "prose.txt").read_text("utf-8").splitlines()
        made["blocks"].append({"labels": [made["prose"]], "templates": prose, "fill": ["-"]})
    draw = random.Random(seed)
    pairs: dict[tuple[str, ...], list[Example]] = {}
    for block in made["blocks"]:
        for template, fill in itertools.product(block["templates"], block["fill"]):
            if "{}" not in template and fill != block["fill"][0]:
                continue
            group = fill if made["group_by"] == "fill" else template
            labels = tuple(block["labels"])
            example = Example(template.replace("{}", fill), labels, group)
            pairs.setdefault(labels, []).append(example)
    found: list[Example] = []
    for some in pairs.values():
        draw.shuffle(some)
        found += _from_each_group(some, made.get("most_of_group", len(some)))[: made["num"]]
    longer = _among_words if made.get("is_bare") else _among
    return [longer(each, made.get("harmless", ()), draw) for each in found]


def _from_each_group(examples: Sequence[Example], most: int) -> list[Example]:
    counts: Counter[str] = Counter()
    found = []
    for example in examples:
        counts[example.group] += 1
        if counts[example.group] <= most:
            found.append(example)
    return found


def _among(example: Example, harmless: Sequence[str], draw: random.Random) -> Example:
    """The example, or the same between harmless sentences."""
    if not harmless or draw.random() > _HARMLESS:
        return example
    some = draw.sample(harmless, draw.randint(1, min(_MOST_SENTENCES, len(harmless))))
    some.insert(draw.randint(0, len(some)), example.text)
    return Example(" ".join(some), example.labels, example.group)


def _among_words(example: Example, harmless: Sequence[str], draw: random.Random) -> Example:
    """The example, or the same beside harmless words without a stop between: sentences are read
    alone, and words within one are not to hide anything."""
    if draw.random() > _HARMLESS:
        return example
    words = " ".join(draw.sample(harmless, 2)).replace(".", "").lower().split()
    some = " ".join(words[: draw.randint(3, 12)])
    text = example.text.rstrip(".!?。")
    text = f"{text} {some}" if draw.random() < 0.5 else f"{some} {example.text}"
    return Example(text, example.labels, example.group)


def read_examples(path: Path) -> list[Example]:
    """Examples of a JSONL file: `text`, `label` or the list `labels`, and perhaps `group`; without
    one each text is its own group.

    Raises:
      OSError: the file can't be read.
      ValueError: a line is no such object; it names the line.
    """
    found = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                found.append(_example(line, f"{path}, line {number}"))
    if not found:
        raise ValueError(
            f"{path} has no examples: write one JSON object with text and label a line"
        )
    return found


def _example(line: str, where: str) -> Example:
    try:
        record: Any = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{where}: this is no JSON ({error}): write one object a line") from None
    labels: Any = record.get("labels", record.get("label")) if isinstance(record, dict) else None
    labels = [labels] if isinstance(labels, str) else labels
    is_list = isinstance(labels, list) and all(isinstance(label, str) for label in labels)
    if not is_list or not isinstance(record.get("text"), str):
        raise ValueError(
            f'{where}: an example is {{"text": "...", "label": "..."}}, or with "labels" as a '
            f"list of texts; got {line.strip()[:80]}"
        )
    return Example(record["text"], tuple(labels), str(record.get("group", record["text"])))
