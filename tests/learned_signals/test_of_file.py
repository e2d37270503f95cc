"""The learned signals of a router's file: what needs an encoder gets it, what can't be found is
refused, and a changed file has its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flaxen.cli.main import main
from flaxen.cli.route.learned import LearnedOptions
from flaxen.learned_signals.encoder import Encoder
from flaxen.learned_signals.examples import Example
from flaxen.learned_signals.head_file import save_head
from flaxen.learned_signals.of_file import SignalsOfFile, read_heads
from flaxen.learned_signals.training import train
from flaxen.routing.attaching import proxy_app
from flaxen.routing.file import RouterFile
from flaxen.routing.http_client import HttpClient
from flaxen.routing.service import RoutingService
from flaxen.server.config import ServerConfig
from tests.learned_signals.conftest import MakeEncoder
from tests.learned_signals.made import head
from tests.server.clients import get, post, run

FILE = """
version: v0.3
providers: {defaults: {model: small}, models: [{name: small, backend_refs: [{endpoint: "h:1"}]}]}
routing:
  signals:
    embeddings: [{name: weather, threshold: 0.9999, candidates: [the sky is blue]}]
    domains: [{name: law}]
  decisions:
    - name: outside
      rules: {type: embedding, name: weather}
      plugins: [{type: fast_response, configuration: {message: Take a coat.}}]
global:
  model_catalog: {embeddings: {semantic: {embedding_config: {enable_soft_matching: false}}}}
"""
LAW = FILE.replace("{type: embedding, name: weather}", "{type: domain, name: law}")
PLAIN = FILE.replace(
    "{type: embedding, name: weather}", "{type: conversation, name: long}"
).replace(
    "  decisions:",
    "    conversation: [{name: long, feature: {type: count, source: {type: message}}, predicate: "
    "{gt: 9}}]\n  decisions:",
)


class Opened:
    """Stands for an open encoder; counts how often it was opened and closed."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder, self.num_opened, self.num_closed = encoder, 0, 0

    def __call__(self) -> Any:
        self.num_opened += 1
        return self

    def close(self) -> None:
        self.num_closed += 1


def router_file(path: Path, opened: Callable[[], Any], heads: Path | None = None) -> RouterFile:
    signals = SignalsOfFile(opened, heads)
    return RouterFile(path=path / "router.yaml", environment={}, served=(), learned=signals)


def compiled(file: RouterFile, text: str) -> RoutingService:
    file.path.write_text(text)
    router = run(file.compile(file.read(), HttpClient()))
    return RoutingService(router=router, config=ServerConfig())


def answered(app: Any, text: str) -> str:
    """The decision of a request; "" where the default model, which is not there, was asked."""
    body = {"model": "auto", "messages": [{"role": "user", "content": text}]}
    answer = post(app, "/v1/chat/completions", body)
    assert answer.status_code == (200 if "x-vsr-fast-response" in answer.headers else 502)
    return answer.headers.get("x-vsr-selected-decision", "")


def test_requests_are_decided_by_the_encoder_and_a_changed_file_by_its_own_texts(
    make_encoder: MakeEncoder, tmp_path: Path
) -> None:
    opened = Opened(make_encoder())
    file = router_file(tmp_path, opened)
    service = compiled(file, FILE)
    app = proxy_app(service)
    assert (answered(app, "the sky is blue"), answered(app, "a fish")) == ("outside", "")

    async def change() -> None:
        first = service.router
        watching = asyncio.create_task(file.watch(service, HttpClient(), 0.01))
        await asyncio.sleep(0.05)
        file.path.write_text(LAW)
        while not service.stale:
            await asyncio.sleep(0.01)
        assert service.router is first
        assert "train one with flaxen route train domain" in service.stale
        file.path.write_text(FILE.replace("the sky is blue", "a fish"))
        while service.router is first:
            await asyncio.sleep(0.01)
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching

    run(change())
    assert (answered(app, "the sky is blue"), answered(app, "a fish")) == ("", "outside")
    assert 'llm_signal_match_total{signal_name="weather"' in get(app, "/metrics").text
    assert (opened.num_opened, opened.num_closed) == (1, 0)
    file.learned.close()
    assert opened.num_closed == 1


def test_a_head_of_the_directory_decides(make_encoder: MakeEncoder, tmp_path: Path) -> None:
    encoder, heads = make_encoder(), tmp_path / "heads"
    heads.mkdir()
    words = {"law": ("sky", "sea"), "math": ("fish", "a")}
    examples = [
        Example(text=f"{word} {'blue ' * place}", labels=(label,), group=f"{label} {place}")
        for label, some in words.items()
        for place in range(14)
        for word in some
    ]
    save_head(run(train("domain", examples, encoder)), heads / "topics")
    service = compiled(router_file(tmp_path, Opened(encoder), heads), LAW)
    expected = dict.fromkeys(("sky blue", "sea blue blue"), "outside")
    expected |= dict.fromkeys(("fish blue", "a blue blue"), "")
    assert {text: answered(proxy_app(service), text) for text in expected} == expected


def test_the_commands_ask_models_where_an_option_says_which(
    make_encoder: MakeEncoder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    opened = Opened(make_encoder())
    monkeypatch.setattr(LearnedOptions, "_open", lambda options: opened())
    file, probes = tmp_path / "router.yaml", tmp_path / "probes.yaml"
    file.write_text(FILE)
    probes.write_text(
        "decisions:\n"
        "  - {id: a, expected_decision: outside, variants: [{id: b, query: the sky is blue}]}\n"
        "  - {id: c, expected_decision: '', variants: [{id: d, query: a fish}]}\n"
    )
    before, own = FILE.split("routing:\n")
    own, after = own.split("global:")
    own = f"recipes:\n  - name: own\n    routing:\n{textwrap.indent(own, '    ')}"
    unnamed = tmp_path / "unnamed.yaml"  # nobody can ask for its recipe, but probes
    unnamed.write_text(f"{before}{own}global:{after}")
    asked = probes.read_text().replace(
        "expected_decision", "expected_recipe: own, expected_decision"
    )
    (tmp_path / "own.yaml").write_text(asked)
    assert main(["route", "test", str(unnamed), str(tmp_path / "own.yaml"), "--encoder", "e"]) == 0
    assert "2     │ 0        │ 0" in capsys.readouterr().out
    for options, expected in (((), ["0", "0", "2"]), (("--encoder", "e"), ["2", "0", "0"])):
        assert main(["route", "test", str(file), str(probes), *options]) == 0
        (row,) = (line for line in capsys.readouterr().out.splitlines() if "all " in line)
        assert row.replace("│", " ").split() == ["all", *expected]
    for command, told in (("preview", "decision: outside"), ("explain", "is 1.000")):
        arguments = ["route", command, str(file), "-p", "the sky is blue", "--encoder", "e"]
        assert main(arguments) == 0
        assert told in capsys.readouterr().out
    assert opened.num_opened == opened.num_closed == 4


def test_a_file_without_learned_signals_opens_no_encoder(tmp_path: Path) -> None:
    file = router_file(tmp_path, lambda: pytest.fail("it was opened"), tmp_path / "none")
    assert answered(proxy_app(compiled(file, PLAIN)), "the sky") == ""
    file.learned.close()


def test_a_cache_of_similar_answers_opens_the_encoder(
    make_encoder: MakeEncoder, tmp_path: Path
) -> None:
    cache = "{type: response_cache, configuration: {scope: global}}"
    fast = "{type: fast_response, configuration: {message: Take a coat.}}"
    encoder = make_encoder()
    opened = Opened(encoder)
    service = compiled(router_file(tmp_path, opened), PLAIN.replace(fast, cache))
    decider = service.router.decider_of("auto")
    assert decider is not None
    assert opened.num_opened == 1
    vectors = run(encoder.pooled(["the sky"]))
    assert np.array_equal(run(decider.vector("the sky")), vectors[0])
    compiled(router_file(tmp_path, opened), PLAIN.replace(fast, cache[:-2] + ", mode: exact}}"))
    assert opened.num_opened == 1


def test_requests_are_compared_to_answered_ones(make_encoder: MakeEncoder, tmp_path: Path) -> None:
    file, encoder = tmp_path / "answered.jsonl", make_encoder()
    rows = [("the sky is blue", "small", 0.25), ("a fish", "large", 1.0), ("a sea", "large", 0.5)]
    file.write_text(
        "".join(
            json.dumps({"query": q, "model_name": m, "performance": p, "response": ""}) + "\n\n"
            for q, m, p in rows
        )
    )
    text = (
        PLAIN.replace(
            "plugins: [{type: fast_response, configuration: {message: Take a coat.}}]",
            "algorithm: {type: knn}\n      modelRefs: [{model: small}, {model: large}]",
        )
        .replace("gt: 9", "gt: 0")
        .replace("models: [", 'models: [{name: large, backend_refs: [{endpoint: "h:2"}]}, ')
        + f"  router: {{model_selection: {{ml: {{knn: {{k: 1, pretrained_path: {file}}}}}}}}}\n"
    )
    service = compiled(router_file(tmp_path, Opened(encoder)), text)

    def chosen(text: str) -> tuple[str, str]:
        asked = {"text": text, "model": "auto"}
        found = post(proxy_app(service), "/api/v1/routing/preview", asked).json()
        return found["selected_model"], found["selection_method"]

    for query, model, _ in rows:
        assert chosen(query) == (model, "knn")
    for wrong, message in (
        ('{"vectors": [[0, 1]]}', "line 1: it must be an object with query, model_name and perf"),
        ('{"query": "a", "model_name": "b", "performance": 2}', "give a query, and a performance"),
        ("\n", "has no line, so that no request is alike to another"),
    ):
        file.write_text(wrong)
        with pytest.raises(ValueError, match=message):
            compiled(router_file(tmp_path, Opened(encoder)), text)


def test_what_no_head_finds_is_refused(make_encoder: MakeEncoder, tmp_path: Path) -> None:
    message = (
        "the recipe default can't be served with the heads of no directory: signals of the kind "
        "domain need a head: train one with flaxen route train domain"
    )
    with pytest.raises(ValueError, match=message):
        compiled(router_file(tmp_path, Opened(make_encoder())), LAW)


def test_heads_have_one_name_each(tmp_path: Path) -> None:
    for name, task in (("a", "domain"), ("tickets.head", "classifier"), (".b", "domain")):
        save_head(head(task, ("one", "two")), tmp_path / name)
    assert list(read_heads(tmp_path)) == ["domain", "tickets"]
    save_head(head("domain", ("one", "two")), tmp_path / "c")
    with pytest.raises(ValueError, match=r"has two heads domain: keep one, and move .*/c away"):
        read_heads(tmp_path)
    assert read_heads(None) == {}
