"""The options of a router are refused without its file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flaxen.cli.serve.router_options import RouterOptions


@pytest.mark.parametrize("given", [{"router_heads": Path("heads")}, {"router_encoder": "bge"}])
def test_signals_need_a_file(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="give it by --router FILE"):
        RouterOptions(**given).file()
    assert RouterOptions().file() is None
