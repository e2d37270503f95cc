"""The bodies of these routes. Deliberately does not know what they are for."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from flaxen.server.schema import StrictBody, Whole

_LARGEST = 2**53  # what any client's JSON has exactly


class UpdateBody(StrictBody):
    """The fields of /update_weights_from_disk, which are SGLang's."""

    model_path: str
    # SGLang's versions are texts; ours are numbers, which have an order.
    weight_version: (
        Annotated[Whole, Field(ge=0, le=_LARGEST)]
        | Annotated[str, Field(pattern="^[0-9]{1,15}$")]
        | None
    ) = None
    abort_all_requests: bool | None = None
    keep_pause: bool | None = None
    # What these would change is done in any case, or can't be done.
    load_format: Literal["auto"] | None = None
    flush_cache: Literal[True] | None = None
    is_async: Literal[False] | None = None
    torch_empty_cache: bool | None = None
    recapture_cuda_graph: bool | None = None
    token_step: Whole | None = None
