"""Why the matcher refuses a grammar, in words that name the keyword and what to do.

Deliberately does not know: schemas, matching.
"""

from __future__ import annotations

import re

from flaxen.protocol import FieldError, StructuredOutputs

# The matcher's errors have no codes: only their words tell them apart. One that is not here is
# passed on as it is.
_REASONS: tuple[tuple[str, str], ...] = (
    (r"Unimplemented keys: \[(.*?)\]", r"the keyword \1 is not supported: leave it out"),
    (
        r"oneOf constraints are not supported",
        "oneOf needs branches of which at most one can match, told apart by their types or by a "
        "required property with a const: add one, or use anyOf",
    ),
    (
        r"Unknown format: (\S+)",
        r"the format \1 is not supported: leave it out, or give a pattern",
    ),
    (
        r"(look-?around|backreferences)",
        r"the pattern has a part that no grammar can have (\1): write it without",
    ),
    (r"(regex parse error.*)", r"the pattern is wrong: \1"),
    (
        r"(?:Resource|URI reference) '(.*?)'",
        r"$ref or $id leads to '\1', which is not in the schema: copy it into $defs",
    ),
    (r"Pointer '(.*?)' does not exist", r"$ref leads to '\1', which is not in the schema"),
    (
        r"intersection stack level",
        "allOf and $ref lead to each other too deeply: write the schema without one of them",
    ),
    (
        r"circular references with sibling keys",
        "a $ref that leads back to itself has other keywords beside it: move them behind the $ref",
    ),
)


def reason(error: str) -> str:
    """The reason in an error of the matcher, in one line."""
    line = " ".join(error.split())
    for pattern, words in _REASONS:
        if found := re.search(pattern, line, re.IGNORECASE):
            return found.expand(words)
    return line


def refused(structure: StructuredOutputs, problem: str) -> FieldError:
    """The error of a structure that can't be done, which names the field of the request."""
    return FieldError(f"structured_outputs.{structure.kind}", f"{structure.kind} {problem}")
