"""What the options of the log mean, and the warning of an address that anybody may use."""

from __future__ import annotations

import logging
import socket

import pytest

from flaxen.cli.serve.command import check_address
from flaxen.cli.serve.options import ServerOptions
from flaxen.serving.logs import LogLevel


def test_the_level_of_the_log() -> None:
    assert ServerOptions().least_level is LogLevel.INFO
    assert ServerOptions(quiet=True).least_level is LogLevel.WARNING
    assert ServerOptions(log_level=LogLevel.DEBUG).least_level is LogLevel.DEBUG


def test_quiet_contradicts_a_level() -> None:
    with pytest.raises(ValueError, match="--quiet and --log-level debug contradict each other"):
        ServerOptions(quiet=True, log_level=LogLevel.DEBUG)


@pytest.mark.parametrize(
    ("host", "keys", "warns"),
    [("127.0.0.1", [], False), ("0.0.0.0", [], True), ("0.0.0.0", ["key"], False)],
)
def test_an_open_address_is_a_warning(
    host: str, keys: list[str], warns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "flaxen"):
        check_address(ServerOptions(host=host, port=0, api_keys=keys))
    assert ("other machines reach 0.0.0.0, and no API key is asked for" in caplog.text) is warns


def test_an_address_in_use_is_found_before_the_weights_are_read() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match="choose another --port"):
            check_address(ServerOptions(port=port))
