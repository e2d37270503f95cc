"""POST /infill, as llama.cpp has it: the text between two others, for editors.

Knows: the tokens by which models are told of the two. Deliberately does not know answers.
"""

from __future__ import annotations

from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from flaxen.llama_cpp_routes.bodies import common_names
from flaxen.llama_cpp_routes.completion import complete
from flaxen.server.context import Context
from flaxen.server.errors import unsupported
from flaxen.server.schema import StrictBody, parse

# The special tokens before the text that comes first, the one behind the gap, and the gap's.
_MARKS = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),  # noqa: RUF001
    ("<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"),
    ("▁<PRE>", "▁<SUF>", "▁<MID>"),
)
_FILE_MARKS = ("<|file_sep|>", "<file_sep>")  # between files of one project


class FileBody(StrictBody):
    """A file that the text is written beside."""

    filename: str = ""
    text: str


class InfillBody(StrictBody):
    """The fields of /infill that /completion does not have."""

    input_prefix: str
    input_suffix: str
    input_extra: list[FileBody] | None = None
    prompt: str | None = None  # the beginning of what fills the gap


async def create(context: Context, http: HttpRequest) -> Response:
    """Answers POST /infill, as /completion is answered."""
    return await complete(context, http, _completion)


def _completion(fields: dict[str, Any], context: Context) -> dict[str, Any]:
    """The fields of /completion.

    Raises:
      ApiError: 400, the model knows no such tokens, or a field is wrong.
    """
    names = InfillBody.model_fields
    body = parse(InfillBody, {name: value for name, value in fields.items() if name in names})
    others = {name: value for name, value in fields.items() if name not in names}
    prompt, files_end = _prompt(body, context)
    found = common_names({**others, "prompt": prompt}, context)
    if files_end is not None and found.get("stop") is None:
        found["stop"] = [files_end]  # another file begins
    return found


def _prompt(body: InfillBody, context: Context) -> tuple[str, str | None]:
    """The prompt's text, and the mark before each file, None if the model has none."""
    known = context.tokenizer.parts.backend.token_to_id
    marks = next((each for each in _MARKS if all(known(mark) is not None for mark in each)), None)
    if marks is None:
        raise unsupported(
            "/infill is refused: the model's tokenizer has no tokens for a text before and behind "
            "a gap, such as <|fim_prefix|>. Use a model for code that has them, or /completion",
            "model",
        )
    between = next((mark for mark in _FILE_MARKS if known(mark) is not None), None)
    extra = "".join(
        f"{between or ''}{each.filename}\n{each.text}\n" for each in body.input_extra or ()
    )
    if extra and between is not None:
        extra += between
    before, behind, gap = marks
    prefix = body.input_prefix + (body.prompt or "")
    return f"{extra}{before}{prefix}{behind}{body.input_suffix}{gap}", between
