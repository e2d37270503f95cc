"""The tools of a request as parsers see them.

Deliberately does not know: how a request names its tools.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from flaxen.output_parsers.incoming import Incoming, Reading

Tools = Mapping[str, Mapping[str, Any]]  # the JSON schema of each tool's arguments, by its name
ToolReader = Callable[[Incoming, Tools], Reading[None]]
