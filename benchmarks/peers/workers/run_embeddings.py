"""Measures one peer's embeddings of MiniLM; runs in the peers' environment.

Usage: run_embeddings.py {onnxruntime-int8,onnxruntime,sentence-transformers} MODEL WORK
WORK has inputs.json: for each batch size, batches of token ids without padding. Prints one JSON
line: for each batch size the seconds of each batch, by the clock and of the CPUs, and the first
embedding. Deliberately does not know flaxen.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Embed = Callable[[list[list[int]]], np.ndarray]


def pooled(hidden: np.ndarray) -> np.ndarray:
    """The mean over the tokens of each text, with length 1."""
    means = hidden.mean(axis=1)
    found: np.ndarray = means / np.linalg.norm(means, axis=1, keepdims=True)
    return found


def export(model: Path, file: Path) -> None:
    """Writes the model as ONNX, and beside it with weights of eight bits."""
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from transformers import AutoModel

    network = AutoModel.from_pretrained(model, attn_implementation="eager").eval()

    class Named(torch.nn.Module):  # type: ignore[misc]  # torch is not here
        """The network with the inputs that its file will have, in their order."""

        def forward(self, ids: Any, mask: Any, types: Any) -> Any:
            out = network(input_ids=ids, attention_mask=mask, token_type_ids=types)
            return out.last_hidden_state

    named = Named().eval()
    named.network = network  # a part of it, so that the exporter finds its parameters
    inputs = torch.ones((2, 16), dtype=torch.int64)
    names = ["input_ids", "attention_mask", "token_type_ids"]
    axes = {name: {0: "batch", 1: "tokens"} for name in [*names, "last_hidden_state"]}
    torch.onnx.export(
        named,
        (inputs, inputs, inputs * 0),
        file,
        input_names=names,
        output_names=["last_hidden_state"],
        dynamic_axes=axes,
        opset_version=17,
        dynamo=False,
    )
    quantize_dynamic(file, file.with_stem("int8"), weight_type=QuantType.QInt8)


def onnxruntime(model: Path, work: Path, stem: str) -> Embed:
    """ONNX Runtime, with its own number of threads."""
    from onnxruntime import InferenceSession

    if not (work / "float.onnx").exists():
        export(model, work / "float.onnx")
    session = InferenceSession(str(work / f"{stem}.onnx"), providers=["CPUExecutionProvider"])

    def embed(batch: list[list[int]]) -> np.ndarray:
        ids = np.asarray(batch, np.int64)
        inputs = {
            "input_ids": ids,
            "attention_mask": np.ones_like(ids),
            "token_type_ids": np.zeros_like(ids),
        }
        return pooled(session.run(None, inputs)[0])

    return embed


def sentence_transformers(model: Path, work: Path) -> Embed:
    """sentence-transformers on token ids: its modules, without its tokenizer."""
    import torch
    from sentence_transformers import SentenceTransformer

    network = SentenceTransformer(str(model), device="cpu").eval()

    def embed(batch: list[list[int]]) -> np.ndarray:
        ids = torch.tensor(batch)
        features = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        with torch.inference_mode():
            found: np.ndarray = network(features)["sentence_embedding"].numpy()
        return found

    return embed


def main() -> None:
    """Runs each batch after one that is not counted."""
    engine, model, work = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    makers: dict[str, Callable[[], Embed]] = {
        "onnxruntime-int8": lambda: onnxruntime(model, work, "int8"),
        "onnxruntime": lambda: onnxruntime(model, work, "float"),
        "sentence-transformers": lambda: sentence_transformers(model, work),
    }
    embed = makers[engine]()
    found: dict[str, Any] = {}
    for size, batches in json.loads((work / "inputs.json").read_text()).items():
        first = embed(batches[0])[0]
        times = []
        for batch in batches:
            cpu_s, wall_s = time.process_time(), time.perf_counter()
            embed(batch)
            times.append((time.perf_counter() - wall_s, time.process_time() - cpu_s))
        found[size] = {"times": times, "first": first.tolist()}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
