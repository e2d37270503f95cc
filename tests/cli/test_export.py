"""`flaxen merge` and `flaxen export`: what they write, say and refuse."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxen.cli.exporting import check_room
from flaxen.cli.main import main
from flaxen.weights.adapters.adapter import merge_adapter
from flaxen.weights.adapters.peft_writer import save_adapter
from flaxen.weights.checkpoint import open_checkpoint
from tests.weights.adapters.made import random_adapter
from tests.weights.files import copy_golden
from tests.weights.tokenizer_files import quantized_golden, write_small_tokenizer

FLOAT32 = jnp.dtype("float32")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_tokenizer(copy_golden("qwen2_biases", tmp_path_factory.mktemp("base")))


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("adapters") / "mine"
    save_adapter(directory, random_adapter(open_checkpoint(base).model), str(base))
    return directory


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """Runs a command that succeeds. Returns what it prints."""
    assert main([str(each) for each in arguments]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def test_merge_finds_the_base_by_the_adapter(
    tmp_path: Path, base: Path, adapter: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "merged"
    said = run(capsys, "merge", "--adapter", adapter, "--output-dir", out)
    assert said.startswith(f"wrote {out} (float32, ")
    assert said.endswith(f"). Try it: flaxen chat {out}\n")
    source = open_checkpoint(base)
    wanted = merge_adapter(source.load_params(FLOAT32), random_adapter(source.model))
    merged = open_checkpoint(out)
    jax.tree.map(np.testing.assert_array_equal, merged.load_params(FLOAT32), wanted)
    assert merged.make_tokenizer().chat_template is not None
    for arguments in (("merge", adapter, "-o"), ("merge", base, "--adapter", adapter, "-o")):
        again = tmp_path / str(len(arguments))
        run(capsys, *arguments, again)
        assert (again / "model.safetensors").read_bytes() == (
            out / "model.safetensors"
        ).read_bytes()
    run(capsys, "merge", adapter, "-o", tmp_path / "half", "--dtype", "bfloat16")
    fields = json.loads((tmp_path / "half" / "config.json").read_text())
    assert fields["dtype"] == "bfloat16"


def test_export_goes_by_the_ending(
    tmp_path: Path, base: Path, adapter: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "m.gguf"
    assert "(GGUF, q8_0, " in run(capsys, "export", adapter, out, "--outtype", "Q8_0")
    found = open_checkpoint(out)
    assert found.sources.tensors["blk.0.attn_q.weight"].dtype == "Q8_0"
    assert "(float16, " in run(
        capsys, "export", base, tmp_path / "dir", "--dtype", "float16", "--offline"
    )
    assert open_checkpoint(tmp_path / "dir").dtype == jnp.float16


def test_what_happens_to_quantized_weights_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = quantized_golden(tmp_path / "q.gguf")
    mine = tmp_path / "mine"
    save_adapter(mine, random_adapter(open_checkpoint(path).model, targets=("wq",)), str(path))

    def notes(*arguments: str | Path) -> str:
        assert main([str(each) for each in arguments]) == 0
        return capsys.readouterr().err

    types = "weights in F32, Q4_0, Q4_1, Q5_1, Q8_0 were dequantized exactly"
    assert f"{types}, the adapter added in float32, and rounded once, to bfloat16" in notes(
        "merge", mine, "-o", tmp_path / "merged"
    )
    assert f"{types}, then written as f16" in notes(
        "export", path, tmp_path / "f16.gguf", "--outtype", "f16"
    )
    assert "matrices that the adapter changes are written in bfloat16, the others as th" in notes(
        "export", mine, tmp_path / "auto.gguf"
    )
    assert notes("export", path, tmp_path / "as_it_is.gguf") == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("merge -o OUT", "name what to merge: flaxen merge MODEL --adapter DIR --output-dir OUT"),
        ("merge BASE -o OUT", "nothing to merge into .*: name an adapter by --adapter DIR. fla"),
        ("merge BASE --adapter BASE -o OUT", "has no adapter_config.json. Name the directory of"),
        ("merge ADAPTER -o m.gguf", "flaxen merge writes a directory: flaxen export MODEL m.gguf"),
        ("merge ADAPTER --adapter ADAPTER -o OUT", "an adapter is named twice: merged twice, it"),
        ("merge ADAPTER -o BASE", "already holds config.json, which would be lost: remove the di"),
        ("merge ADAPTER -o OUT --dtype int8", "dtype int8 is not supported: use float32, bfloat16"),
        ("merge ADAPTER -o OUT --definition a.py:f", "--definition names the code of .*: leave it"),
        ("export BASE m.gguf --dtype float32", "is for safetensors: for a GGUF file give --outtyp"),
        ("export BASE OUT --outtype f16", "is for GGUF files, and .* does not end in .gguf: for a"),
        ("export BASE OUT.gguf --outtype q6_k", "can't be written: .* llama-quantize makes the K-"),
        ("export mine.py:model OUT.gguf", "is a definition, whose architecture no published forma"),
    ],
)  # fmt: skip
def test_what_is_refused(
    tmp_path: Path,
    base: Path,
    adapter: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: str,
    message: str,
) -> None:
    places = {"BASE": base, "ADAPTER": adapter, "OUT": tmp_path / "out"}
    for name, path in places.items():
        arguments = arguments.replace(name, str(path))
    assert re.search(message, error_of(arguments.split(), capsys))
    assert list(tmp_path.iterdir()) == []


def error_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(arguments) == 2
    return capsys.readouterr().err


def test_another_family_is_sent_elsewhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = write_small_tokenizer(copy_golden("qwen2_biases", tmp_path))
    fields = json.loads((directory / "config.json").read_text())
    fields |= {"architectures": ["BloomForCausalLM"], "model_type": "bloom"}
    (directory / "config.json").write_text(json.dumps(fields))
    found = error_of(["export", str(directory), str(tmp_path / "m.gguf")], capsys)
    assert "'BloomForCausalLM' is not supported" in found
    assert "llama.cpp's convert_hf_to_gguf.py knows more of them" in found


def test_what_will_not_fit_is_not_begun(tmp_path: Path) -> None:
    check_room(tmp_path / "m.gguf", 5, 5)
    message = r"m\.gguf needs 2\.0 GB more, and 1\.0 GB are free there: make room, or write it el"
    with pytest.raises(ValueError, match=message):
        check_room(tmp_path / "m.gguf", 2 * 10**9, 10**9)


_INTERRUPTED = """
import sys, time
from pathlib import Path
from flaxen.cli.exporting import write
from flaxen.cli.interrupt import end_at_signals
from flaxen.weights.atomic import new_file

def writing(on_written):
    with new_file(Path(sys.argv[1])) as path:
        path.write_text("half")
        print("begun", flush=True)
        time.sleep(60)

end_at_signals()
write("GGUF", Path(sys.argv[1]), writing)
"""


@pytest.mark.slow
def test_an_interrupted_export_leaves_nothing(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _INTERRUPTED, str(tmp_path / "m.gguf")], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"begun\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    process.stdout.close()
    assert list(tmp_path.iterdir()) == []
