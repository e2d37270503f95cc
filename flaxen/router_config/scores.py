"""From projections, as the file has them, to those that are computed."""

from __future__ import annotations

from flaxen.router.decisions.projections import (
    DEFAULT_SLOPE,
    Mapping,
    Output,
    Partition,
    Projections,
    Score,
    ScoreInput,
)
from flaxen.router.decisions.tree import PROJECTION, SignalKey
from flaxen.router_config.names import NOWHERE, Names
from flaxen.router_config.problems import Path, Problems
from flaxen.router_config.projections import (
    MappingShape,
    PartitionShape,
    ProjectionsShape,
    ScoreInputShape,
    ScoreShape,
)
from flaxen.router_config.reading import suggestion

_PARTITIONED = {"domains": "domain", "embeddings": "embedding"}


def make_projections(
    shape: ProjectionsShape, names: Names, path: Path, problems: Problems
) -> Projections:
    """Makes the projections of a recipe; what is wrong with them is added to problems."""
    _unique(
        [(score.name, (*path, "scores", i)) for i, score in enumerate(shape.scores)],
        "score",
        problems,
    )
    _unique(
        [
            (output.name, (*path, "mappings", i, "outputs", j))
            for i, mapping in enumerate(shape.mappings)
            for j, output in enumerate(mapping.outputs)
        ],
        "output",
        problems,
    )
    _unique(
        [
            (member, (*path, "partitions", i))
            for i, partition in enumerate(shape.partitions)
            for member in partition.members
        ],
        "member of a partition",
        problems,
    )
    scores = {score.name: score for score in shape.scores}
    for index, mapping in enumerate(shape.mappings):
        if mapping.source not in scores:
            text = f"{mapping.source!r} is no score: {suggestion(mapping.source, list(scores))}"
            problems.add(0, (*path, "mappings", index, "source"), text)
    for index, score in enumerate(shape.scores):
        if score.name in _behind(score.name, shape, set()):
            text = f"the score {score.name} reads itself: remove one of the inputs between"
            problems.add(0, (*path, "scores", index), text)
    return Projections(
        partitions=tuple(
            _partition(partition, names, (*path, "partitions", index), problems)
            for index, partition in enumerate(shape.partitions)
        ),
        scores=tuple(
            _score(score, scores, names, (*path, "scores", index), problems)
            for index, score in enumerate(shape.scores)
        ),
        mappings=tuple(_mapping(mapping) for mapping in shape.mappings),
    )


def _unique(named: list[tuple[str, Path]], what: str, problems: Problems) -> None:
    seen: set[str] = set()
    for name, path in named:
        if name in seen:
            problems.add(0, path, f"two of the recipe are the {what} {name!r}: rename one")
        seen.add(name)


def _behind(name: str, shape: ProjectionsShape, seen: set[str]) -> set[str]:
    """The scores that a score reads, also through outputs."""
    source_of = {output.name: m.source for m in shape.mappings for output in m.outputs}
    for score in shape.scores:
        if score.name != name:
            continue
        for term in score.inputs:
            if term.type != PROJECTION:
                continue
            is_output = term.value_source == "confidence"
            below = source_of.get(term.name) if is_output else term.name
            if below is not None and below not in seen:
                seen.add(below)
                _behind(below, shape, seen)
    return seen


def _partition(shape: PartitionShape, names: Names, path: Path, problems: Problems) -> Partition:
    rules = names.signals.rules
    kinds = [
        kind
        for collection, kind in _PARTITIONED.items()
        if {rule.name for rule in rules.get(collection, ())} >= set(shape.members)
    ]
    if len(kinds) != 1:
        problems.add(
            0,
            (*path, "members"),
            "all members must be declared domains, or all embeddings, and their names no others'",
        )
        kinds = ["domain"]
    members = tuple(SignalKey(kinds[0], name) for name in shape.members)
    return Partition(
        name=shape.name,
        members=members,
        default=SignalKey(kinds[0], shape.default),
        temperature=shape.temperature,
    )


def _score(
    shape: ScoreShape, scores: dict[str, ScoreShape], names: Names, path: Path, problems: Problems
) -> Score:
    return Score(
        name=shape.name,
        inputs=tuple(
            _input(term, scores, names, (*path, "inputs", index), problems)
            for index, term in enumerate(shape.inputs)
        ),
    )


def _input(
    term: ScoreInputShape,
    scores: dict[str, ScoreShape],
    names: Names,
    path: Path,
    problems: Problems,
) -> ScoreInput:
    key = NOWHERE
    if term.type == PROJECTION and term.value_source != "confidence":
        if term.name in scores:
            key = SignalKey(PROJECTION, term.name)
        else:
            text = f"{term.name!r} is no score: {suggestion(term.name, list(scores))}"
            problems.add(0, path, text)
    else:
        try:
            key = names.key(term.type, term.name)
        except ValueError as error:
            problems.add(0, path, str(error))
    return ScoreInput(
        key=key,
        weight=term.weight,
        source=term.value_source or "binary",
        match=term.match or 1.0,  # 0 is the default in the reference
        miss=term.miss,
    )


def _mapping(shape: MappingShape) -> Mapping:
    return Mapping(
        name=shape.name,
        source=shape.source,
        outputs=tuple(Output(name=out.name, within=out.within) for out in shape.outputs),
        emits_all=shape.method == "multi_emit",
        slope=shape.calibration.slope if shape.calibration.slope > 0 else DEFAULT_SLOPE,
    )
