"""A configuration with free and learned signals, for the commands of `flaxen route`."""

from __future__ import annotations

from pathlib import Path

import pytest

from flaxen.cli.main import main

CONFIG = """\
version: v0.3
providers:
  defaults: {model: small}
  models: [{name: small}, {name: large}]
entrypoints: [{model_names: [clever], recipe: own}]
recipes:
  - name: own
    routing:
      signals:
        keywords: [{name: proof, operator: OR, keywords: [prove]}]
        domains: [{name: law}]
        pii: [{name: personal, threshold: 0.5}]
      decisions:
        - name: hard
          priority: 20
          rules: {type: keyword, name: proof}
          modelRefs: [{model: large}]
          plugins:
            - {type: system_prompt, configuration: {system_prompt: Think.}}
        - name: legal
          priority: 10
          rules: {type: domain, name: law, on_unknown: fail_request}
          modelRefs: [{model: large}]
          plugins: [{type: fast_response, configuration: {message: Ask a lawyer.}}]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The configuration's file."""
    path = tmp_path / "router.yaml"
    path.write_text(CONFIG)
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, list[str]]:
    """The exit code of `flaxen route …`, and the lines of its output and then its errors."""
    code = main(["route", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, [*out.splitlines(), *err.splitlines()]
