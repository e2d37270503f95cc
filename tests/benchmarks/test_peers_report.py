"""The ratios, the targets and the tables of the comparison, from figures that are given."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from benchmarks.peers.changes import parse_changes
from benchmarks.peers.compare import Engine, Measured, Outcome
from benchmarks.peers.engines import DEFAULTS, GROUPS, MODELS, NAMES, Place, cost, make_engine
from benchmarks.peers.memory import available_bytes, check_memory
from benchmarks.peers.servers import NAMES as SERVER_NAMES
from benchmarks.peers.servers import make_server
from benchmarks.peers.serving import FIGURES, Server, ServerOutcome
from benchmarks.peers.show import (
    as_figures,
    servers_as_figures,
    servers_table,
    speeds_table,
    verdicts_table,
)
from benchmarks.peers.targets import judge_limits, judge_ratios, judge_servers, ratio
from flaxen.benchmark.ideal import ModelCost
from flaxen.benchmark.limits import Limits
from flaxen.benchmark.measure import Rep
from tests.benchmarks.peers_fakes import batch

# A step must read 1 byte, and the machine reads 10 a second: 0.1 s at least.
COST = ModelCost(weight_bytes=1, layer_params=0, unembed_params=0, cache_layers=())
LIMITS = Limits(read_bytes_s=10, matmul_flops={"float32": 1e9})
# Shape of Llama-3.2-1B, whose number of parameters is known, with a smaller vocabulary.
LLAMA = {
    "num_hidden_layers": 16,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "vocab_size": 49152,
}
PLACE = Place(peers=Path("/peers"), num_threads=2)


def engine(name: str, kv_bytes: int = 0) -> Engine:
    return Engine(
        name=name, command=("true",), env={}, weight_bits=16, cache_bits=16, kv_bytes=kv_bytes
    )


def outcome(
    name: str, speeds: dict[str, list[float]], peak: int = 0, error: str | None = None
) -> Outcome:
    """An engine that had these speeds. Its decode of 3 tokens beyond the first took 0.4 s."""
    rep = Rep(batch=batch(1, num_output=4), is_decode_only=True, compared_s=0.4)
    return Outcome(
        engine=engine(name),
        measured={
            workload: Measured(figures={"decode_tok_s": values}, reps=[rep] * len(values))
            for workload, values in speeds.items()
        },
        peak_rss_bytes=peak,
        error=error,
    )


def text(table: Table) -> str:
    console = Console(width=200)
    with console.capture() as captured:
        console.print(table)
    return captured.get()


def test_a_ratio_is_the_median_over_pairs_of_runs() -> None:
    # The machine was half as fast in the second repetition, for both.
    assert ratio([20, 10, 40], [10, 5, 10]) == 2
    assert ratio([20, 10, 40], [10]) == 2  # the other failed after one


def test_the_best_peer_counts_whatever_its_format() -> None:
    outcomes = [
        outcome("flaxen-bf16", {"A": [40.0], "B16": [40.0]}),
        outcome("vllm-bf16", {"A": [10.0], "B16": [10.0]}),
        outcome("vllm-f32", {"A": [20.0]}, error="it ended"),
        outcome("openvino-bf16", {"A": [32.0], "B16": [20.0]}),
        outcome("llama-q8_0", {"A": [80.0], "B16": [80.0]}),
        outcome("flaxen-int8", {"A": [100.0]}),
    ]
    verdicts = judge_ratios("smollm2-135m", outcomes)
    assert [(v.workload, v.ours, v.against, v.reached, v.is_met) for v in verdicts] == [
        ("A", "flaxen-bf16", "vllm-f32", 2.0, True),
        ("A", "flaxen-bf16", "openvino-bf16", 1.25, False),
        ("A", "flaxen-int8", "llama-q8_0", 1.25, True),
        ("B16", "flaxen-bf16", "openvino-bf16", 2.0, True),
    ]
    assert judge_ratios("llama-1b-rand", outcomes)[0].wanted == 1.3
    assert judge_ratios("llama-1b-rand", outcomes[1:]) == []


def test_flaxen_is_held_against_the_bandwidth_and_its_memory() -> None:
    ours = outcome("flaxen-bf16", {"A": [40.0, 40.0]}, peak=700_000_000)
    theirs = outcome("vllm-bf16", {"A": [40.0]}, peak=10**12)
    costs = {"flaxen-bf16": COST, "vllm-bf16": COST}
    share, memory = judge_limits("smollm2-135m", [ours, theirs], costs, LIMITS)
    assert share.reached == pytest.approx(0.75)  # 3 steps of 0.1 s in 0.4 s
    assert (memory.reached, memory.is_met) == (0.7, False)
    assert memory.wanted == pytest.approx(0.6)
    ours.engine = engine("flaxen-bf16", kv_bytes=200_000_000)
    assert judge_limits("llama-1b-rand", [ours], costs, LIMITS)[0].is_met
    ours.measured = {}
    assert judge_limits("smollm2-135m", [ours], costs, LIMITS) == []


def server(name: str, output_tok_s: float, itl_p99_ms: float) -> ServerOutcome:
    figures = {key: [1.0] for key in FIGURES}
    figures |= {"output_tok_s": [output_tok_s], "itl_p99_ms": [itl_p99_ms]}
    made = Server(name=name, command=("true",), env={}, url="", model="m")
    return ServerOutcome(server=made, figures=figures)


def test_servers_are_judged_by_throughput_and_latency() -> None:
    ours, theirs = server("flaxen-bf16", 300, 60), server("vllm-bf16", 100, 100)
    best, unpaced = server("vllm-f32", 200, 50), server("flaxenunpaced-bf16", 310, 900)
    speed, first, between, own = judge_servers([ours, theirs, best, unpaced])
    assert (speed.against, speed.reached, speed.is_met) == ("vllm-f32", 1.5, False)
    assert (first.against, first.reached, first.is_met) == ("vllm-f32", 1.0, True)
    assert (between.against, between.reached, between.is_met) == ("vllm-f32", 1.2, False)
    assert (own.against, own.reached, own.is_met) == (unpaced.server.name, 300 / 310, True)
    assert judge_servers([ours]) == judge_servers([theirs]) == []


def test_the_tables_and_the_figures_name_every_engine() -> None:
    outcomes = [
        outcome("flaxen-bf16", {"A": [40.0, 50.0]}),
        outcome("vllm-f32", {}, error="it ended"),
    ]
    costs = {"flaxen-bf16": COST, "vllm-f32": COST}
    shown = text(speeds_table(outcomes, costs, LIMITS))
    assert "45.0  75%" in shown
    assert "vllm-f32 failed" in shown
    figures = as_figures(outcomes, judge_limits("m", outcomes, costs, LIMITS), costs, LIMITS)
    assert figures["engines"]["flaxen-bf16"]["workloads"]["A"]["decode_tok_s"]["median"] == 45
    assert figures["engines"]["vllm-f32"]["error"] == "it ended"
    assert figures["targets"][0]["is_met"]
    verdicts = judge_servers([server("flaxen-bf16", 300, 61), server("vllm-f32", 200, 10)])
    shown = text(verdicts_table(verdicts))
    assert "<= 1.00" in shown
    assert "missed" in shown
    servers = [server("flaxen-bf16", 300, 61), server("vllm-f32", 200, 10)]
    servers[1].figures = {}
    servers[1].error = "no"
    shown = text(servers_table(servers))
    assert "300" in shown
    assert "vllm-f32 failed" in shown
    assert servers_as_figures(servers)["flaxen-bf16"]["itl_p99_ms"]["median"] == 61


def test_every_engine_can_be_described_and_has_one_group() -> None:
    for model in MODELS:
        assert set(DEFAULTS[model]) <= set(NAMES)
        for name in NAMES:
            made = make_engine(name, model, PLACE, {"extra": 1})
            assert made.command[-1].endswith('"extra": 1}')
            assert model in made.command[-2]
            assert [name.partition("-")[2] in forms for forms in GROUPS.values()].count(True) == 1
    with pytest.raises(ValueError, match="no engine 'vllm-int3': choose from flaxen-bf16"):
        make_engine("vllm-int3", MODELS[0], PLACE, {})
    for name in SERVER_NAMES:
        made_server = make_server(name, MODELS[0], PLACE)
        assert made_server.url.rpartition(":")[2] in made_server.command
    with pytest.raises(ValueError, match="no server 'x': choose from flaxen-bf16"):
        make_server("x", MODELS[0], PLACE)


def test_the_cost_of_a_model_counts_its_matrices() -> None:
    made = cost(engine("vllm-bf16"), LLAMA)
    # Llama-3.2-1B has 1,235,814,400 parameters, 67,584 of them norms; the vocabulary is 79,104
    # entries of 2,048 smaller.
    num_params = 1_235_814_400 - 67_584 - 79_104 * 2048
    assert made.layer_params + made.unembed_params == num_params
    assert made.weight_bytes == 2 * num_params
    assert made.cache_bytes(10) == 10 * 16 * 2 * 8 * 64 * 2


def test_engines_that_do_not_fit_are_refused() -> None:
    engines = [engine("a", kv_bytes=1 << 30), engine("b", kv_bytes=1 << 30)]
    wanted = 2 * (cost(engines[0], LLAMA).weight_bytes + (2 << 30))
    check_memory(engines, LLAMA, wanted)
    with pytest.raises(ValueError, match=r"a, b would take about 9 GB.*name fewer with --engine"):
        check_memory(engines, LLAMA, wanted - 1)
    assert available_bytes() > 1 << 20


def test_changes_are_json_where_they_can_be() -> None:
    texts = ["flaxen-bf16.page_size=32", "vllm-f32.dtype=half", 'vllm-f32.x={"a": 1}']
    assert parse_changes(texts, ["flaxen-bf16", "vllm-f32"]) == {
        "flaxen-bf16": {"page_size": 32},
        "vllm-f32": {"dtype": "half", "x": {"a": 1}},
    }
    for bad in ("flaxen-bf16", "page_size=1", ".x=1", "a.=1"):
        with pytest.raises(ValueError, match=r"not of the form ENGINE\.ARGUMENT=VALUE"):
            parse_changes([bad], ["a"])
    with pytest.raises(ValueError, match="changes 'b', which does not run: choose from a, c"):
        parse_changes(["b.x=1"], ["a", "c"])
