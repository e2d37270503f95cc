"""The facts about a server: the model, the memory, the addresses, and the reasons.

Deliberately does not know how the parts were made, nor options beyond their names.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from flaxen.serving.announcement.context import about_context
from flaxen.serving.fact import Fact
from flaxen.serving.sizes import show_size

if TYPE_CHECKING:
    from flaxen.build import Parts
    from flaxen.job_routes.stores import Stores
    from flaxen.protocol import AdapterInfo, EngineClient, ModelInfo
    from flaxen.scheduling.config import LoraLimits
    from flaxen.server.config import ServerConfig
    from flaxen.sharding.shape import MeshShape
    from flaxen.text.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Served:
    """The parts of a server that is ready."""

    parts: Parts
    config: ServerConfig
    computing: Sequence[Fact]  # what computes
    engine: EngineClient
    stores: Stores | None  # of fine-tuning; None: it is off
    about_model: tuple[Fact, ...]  # as of `about_model`

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the model; the first is the main one."""
        return self.config.served_model_names or (self.parts.info.name,)

    @property
    def name(self) -> str:
        """The main name of the model."""
        return self.names[0]


def about(served: Served, url: str) -> Iterator[Fact]:
    """All facts about a server that listens on a URL."""
    parts, config = served.parts, served.parts.engine.config
    yield from served.about_model
    yield from about_template(parts.tokenizer, parts.info)
    yield from about_pooling(parts.info)
    yield from served.computing
    yield from about_mesh(parts.mesh)
    yield from about_context(parts.cache_plan, config.max_num_seqs)
    yield from about_steps(parts)
    yield about_adapters(config.lora, served.engine.adapters())
    yield about_fine_tuning(served.stores)
    yield from about_memory()
    yield from about_address(url, has_key=bool(served.config.api_keys))


def about_model(parts: Parts, names: Sequence[str]) -> Iterator[Fact]:
    """The model and its number formats."""
    from flaxen.serving.announcement.weights import about_weights, count_params

    num_params, family = count_params(parts.model), parts.family or "a definition"
    texts = [" = ".join(names), f"{family}, {show_count(num_params)} parameters"]
    if parts.num_file_bytes is not None:
        texts.append(f"{show_size(parts.num_file_bytes)} in its file")
    fields = {"model": names[0], "family": family, "num_params": num_params}
    fields["num_file_bytes"] = parts.num_file_bytes
    yield Fact(label="model", text=", ".join(texts), fields=fields)
    yield about_weights(parts.params, num_params, parts.dtype, parts.cache_dtype)


def about_template(tokenizer: Tokenizer, info: ModelInfo) -> Iterator[Fact]:
    """The chat template, if there is none: chats are then refused."""
    if info.pooling is not None:
        return
    if tokenizer.chat_template is None and not tokenizer.named_templates:
        text = "off: the model has no chat template (--chat-template)"
        yield Fact(label="chat", text=text, fields={"has_chat_template": False})


def about_pooling(info: ModelInfo) -> Iterator[Fact]:
    """What a model without output text answers with."""
    if (pooling := info.pooling) is None:
        return
    if pooling.task == "embed":
        unit = ", of length 1" if pooling.normalize else ""
        text = f"embeddings ({pooling.pooling} of the hidden states{unit})"
    elif pooling.scores_pairs:
        text = f"one score for each prompt or pair ({pooling.activation})"
    else:
        text = f"{len(pooling.labels)} labels ({pooling.activation})"
    yield Fact(label="answers", text=text, fields={"task": pooling.task})


def about_mesh(mesh: MeshShape) -> Iterator[Fact]:
    """The devices that the model is divided over, if there are several."""
    if mesh.num_devices == 1:
        return
    from flaxen.sharding.processes import this_process

    num_processes = this_process().count
    text = f"{mesh}, {mesh.num_devices} devices"
    if num_processes > 1:
        text += f" of {num_processes} processes; they end together"
    if mesh.data > 1:
        text += f": {mesh.data} replicas of the model, each with a KV cache of its own"
    fields = {"mesh": mesh.sizes(), "num_processes": num_processes, "num_replicas": mesh.data}
    yield Fact(label="mesh", text=text, fields=fields)


def about_steps(parts: Parts) -> Iterator[Fact]:
    """The steps' sizes, where they differ from a CPU's: each is compiled apart."""
    config = parts.engine.config
    fields = {"max_num_seqs": config.max_num_seqs, "compile_sizes": config.compile_sizes}
    fields["max_num_batched_tokens"] = config.max_num_batched_tokens
    if config.batch_invariant:
        why = "as always with the CPU kernels" if parts.model.backend.pads_cheaply else "slower"
        text = f"a request's bits depend on its own tokens alone ({why})"
        yield Fact(label="batching", text=text, fields={"batch_invariant": True})
    if not parts.model.backend.pads_cheaply:
        sizes = ", ".join(map(str, config.compile_sizes))
        yield Fact(label="steps", text=f"compiled for {sizes} tokens", fields=fields)


def about_adapters(limits: LoraLimits | None, adapters: Sequence[AdapterInfo]) -> Fact:
    """The adapters that are loaded, and how many run at once."""
    if limits is None:
        return Fact(label="adapters", text="off (--enable-lora)", fields={"max_loras": 0})
    loaded = [adapter.name for adapter in adapters if adapter.is_in_memory]
    text = f"up to {limits.max_loras} at once, of rank {limits.max_lora_rank} or less"
    fields = {"max_loras": limits.max_loras, "adapters": loaded}
    return Fact(
        label="adapters",
        text=f"{text}; loaded: {', '.join(loaded) or 'none yet'}",
        fields=fields,
    )


def about_fine_tuning(stores: Stores | None) -> Fact:
    """Where fine-tuning keeps its data, and how many models it has made."""
    if stores is None:
        return Fact(label="fine-tuning", text="off (--data-dir DIR)", fields={"data_dir": None})
    directory, num_models = stores.config.data_dir, len(stores.jobs.models(deleted=False))
    models = f"{num_models} model{'' if num_models == 1 else 's'}"
    fields = {"data_dir": str(directory), "num_tuned_models": num_models}
    return Fact(label="fine-tuning", text=f"{directory}, with {models} so far", fields=fields)


def about_memory() -> Iterator[Fact]:
    """The memory that the process uses now."""
    num_bytes = resident_bytes()
    if num_bytes is not None:
        text = f"{show_size(num_bytes)} in this process"
        yield Fact(label="memory", text=text, fields={"resident_bytes": num_bytes})


def about_address(url: str, *, has_key: bool) -> Iterator[Fact]:
    """The address, and where to look first."""
    access = "asks for an API key" if has_key else "without an API key"
    fields = {"url": url, "asks_for_key": has_key}
    if url.startswith("unix:"):
        yield Fact(label="API", text=f"{url}, {access}", fields=fields)
        return
    reach = "from other machines too" if is_public(url) else "from this machine only"
    yield Fact(label="API", text=f"{url}/v1, {reach}, {access}", fields=fields)
    yield Fact(label="page", text=f"{url}/", fields={})
    yield Fact(label="reference", text=f"{url}/docs", fields={})
    yield Fact(label="monitoring", text=f"{url}/metrics and {url}/health", fields={})


def is_public(url: str) -> bool:
    """Whether other machines reach a URL that a socket listens on."""
    host = urlsplit(url).hostname
    return host is not None and not ipaddress.ip_address(host).is_loopback


def resident_bytes() -> int | None:
    """The bytes of memory that the process holds now; None where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    sizes = [line.split()[1] for line in lines if line.startswith("VmRSS:")]
    return int(sizes[0]) * 1024 if sizes else None


def show_count(number: int) -> str:
    """A large number with three digits: "135M"."""
    for unit, size in (("B", 10**9), ("M", 10**6), ("K", 10**3)):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return str(number)
