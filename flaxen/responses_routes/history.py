"""The items that a response continues: those of all responses before it, and single ones.

Deliberately does not know stores' places, chat messages.
"""

from __future__ import annotations

from flaxen.responses_routes.items import Item, response_of
from flaxen.responses_routes.stored import ResponseStore, StoredResponse
from flaxen.server.errors import ApiError, invalid

_PARAM = "previous_response_id"


async def conversation(store: ResponseStore, last_id: str | None) -> list[Item]:
    """The items of a response and of all before it, oldest first: inputs, and what came of them.

    Args:
      store: where they are kept.
      last_id: the id of the last response; None for none.

    Raises:
      ApiError: 400, the last response has not ended; 404, one of them is not kept.
    """
    turns: list[StoredResponse] = []
    wanted = last_id
    while wanted is not None:
        stored = await store.get(wanted)
        if stored is None:
            before = "" if wanted == last_id else f", which {last_id} continues,"
            raise ApiError(
                404,
                f"the response {wanted[:80]!r}{before} is not kept here: send its items as input. "
                f"This server keeps {store.kept}",
                param=_PARAM,
                code="previous_response_not_found",
            )
        turns.append(stored)
        wanted = stored.response[_PARAM]
    if turns and not turns[0].is_ended:
        raise invalid(f"the response {last_id} has not ended yet: wait for it", _PARAM)
    return [item for turn in reversed(turns) for item in (*turn.items, *turn.response["output"])]


async def with_referenced(store: ResponseStore, items: list[Item]) -> list[Item]:
    """The items of an input, with kept ones in place of the references to them.

    Raises:
      ApiError: 404, a reference means nothing that is kept.
    """
    found: dict[str, Item] = {}
    for item in items:
        item_id = item["id"]
        if item["type"] != "item_reference" or item_id in found:
            continue
        response_id = response_of(item_id)
        stored = None if response_id is None else await store.get(response_id)
        found |= {} if stored is None else {each["id"]: each for each in stored.response["output"]}
        if item_id not in found:
            raise ApiError(
                404,
                f"the item {item_id[:80]!r} is not kept here: send it whole, as clients do with "
                f"store=false. This server keeps {store.kept}",
                param="input",
                code="not_found",
            )
    return [found[item["id"]] if item["type"] == "item_reference" else item for item in items]
