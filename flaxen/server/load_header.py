"""The header that tells a load balancer how busy the server is, in ORCA's formats, as in vLLM.

https://github.com/envoyproxy/envoy/issues/6614. Deliberately does not know routes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from flaxen.protocol import EngineStats

_ASKED = "endpoint-load-metrics-format"
_TOLD = "endpoint-load-metrics"


def load_header(headers: Mapping[str, str], stats: EngineStats) -> dict[str, str]:
    """The header that a request asks for by its own headers; none for an unknown format."""
    form = headers.get(_ASKED, "").upper()
    named = {
        "kv_cache_usage_perc": stats.kv_cache_usage,
        "num_requests_waiting": stats.num_waiting,
    }
    if form == "JSON":
        return {_TOLD: f"JSON {json.dumps({'named_metrics': named})}"}
    if form == "TEXT":
        pairs = (f"named_metrics.{name}={value}" for name, value in named.items())
        return {_TOLD: f"TEXT {', '.join(pairs)}"}
    return {}
