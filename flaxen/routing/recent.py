"""RecentDecisions: what was decided lately, for the page. It keeps no text of a request."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from flaxen.routing.service import Outcome, RoutingService
from flaxen.routing.upstream import Upstream

_MOST = 50


class RecentDecisions:
    """The latest decisions of a service, in memory; those that a recipe keeps out of the replay log
    (`data_policy.replay`) are left out here, too."""

    def __init__(self, service: RoutingService) -> None:
        self._kept: deque[dict[str, Any]] = deque(maxlen=_MOST)
        service.listeners.append(self._listen)

    def _listen(self, outcome: Outcome) -> None:
        routed, sent, error = outcome.routed, outcome.sent, outcome.error
        if not routed.recipe.routing.data_policy.replay:
            return
        reason = "" if error is None else f"{error.status} {error.code}"
        warnings = [name for name, is_so in routed.unclassified.items() if is_so]
        if sent is not None:
            warnings += ["selection_fallback"] if sent.selected.fallback else []
            warnings += ["failover"] if sent.failed else []
        told = {
            "id": outcome.request_id,
            "time": time.time(),
            "api": routed.request.api,
            "requested_model": outcome.body["model"],
            "decision": routed.name,
            "model": "" if sent is None else sent.selected.model,
            "reason": reason if sent is None else sent.selected.reason,
            "path": outcome.path,
            "warnings": warnings,
            "decide_ms": routed.decide_s * 1e3,
        }
        self._kept.appendleft(told)

    async def page(self, service: RoutingService, local: Upstream, http: Request) -> Response:
        """Answers GET /api/v1/routing/decisions: the newest first."""
        return JSONResponse({"object": "list", "data": list(self._kept)})
