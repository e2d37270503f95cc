"""The facts that probes find, as plain values.

`None` stands for "not found" or "not measured", and each field says which. Deliberately does not
know how anything is found, nor what is good or bad.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The hardware, and how much of it this process may use."""

    cpu: str
    cpu_features: tuple[str, ...] = ()  # those that our kernels have code for
    num_cpus: int
    num_allowed_cpus: int  # by the process's affinity
    num_quota_cpus: float | None = None  # by the control group; None is no limit
    memory_bytes: int
    available_bytes: int
    memory_limit_bytes: int | None = None  # by the control group; None is no limit
    accelerators: tuple[str, ...] = ()  # that the system has, whether or not JAX sees them
    drivers: tuple[str, ...] = ()  # of accelerators, with their versions


@dataclass(frozen=True, kw_only=True)
class Requirement:
    """A library that flaxen asks for."""

    text: str  # as pip takes it
    name: str
    version: str | None  # the installed one; None if it is not installed
    fits: bool  # whether that version is one that flaxen was made for
    extra: str | None = None  # the extra that asks for it; None is flaxen itself


@dataclass(frozen=True, kw_only=True)
class Software:
    """Versions."""

    flaxen: str
    source: str  # where flaxen was installed from, in words
    checkout: str | None = None  # the directory that it was built from
    python: str
    python_path: str
    in_environment: bool  # whether Python runs in a virtual environment
    versions: dict[str, str | None]  # of the libraries that matter most; None is not installed
    compilers: tuple[str, ...] = ()
    requirements: tuple[Requirement, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Kernels:
    """The kernels that compute on the CPU."""

    isa: str  # the instruction set in use, or xla
    supported: tuple[str, ...]  # those that the library and the machine have, best first
    num_threads: int
    has_accelerator: bool  # JAX computes on an accelerator instead
    missing_reason: str | None = None  # why our kernels are missing


@dataclass(frozen=True, kw_only=True)
class Speeds:
    """The machine's limits."""

    read_bytes_s: float
    matmul_flops: dict[str, float]  # dtype -> floating-point operations a second


@dataclass(frozen=True, kw_only=True)
class Compute:
    """The facts about JAX and the kernels, found by a process of its own. An error is one line."""

    wanted_device: str | None = None  # by --device; None is auto
    jax_platforms: str | None = None  # the environment's JAX_PLATFORMS
    wanted_isa: str | None = None  # the environment's FLAXEN_CPU_ISA
    platform: str | None = None
    devices: tuple[str, ...] = ()
    described: str | None = None  # the devices in words, with their memory
    plugins: dict[str, str] = field(default_factory=dict)  # device -> JAX's plugin and its version
    jax_error: str | None = None
    kernels: Kernels | None = None
    kernels_error: str | None = None
    speeds: Speeds | None = None
    speeds_error: str | None = None


@dataclass(frozen=True, kw_only=True)
class Place:
    """A directory that flaxen writes to, or would make."""

    name: str
    path: str
    variable: str  # the environment variable that moves it
    is_writable: bool
    used_bytes: int
    free_bytes: int | None  # None if the disk can't be asked


@dataclass(frozen=True, kw_only=True)
class PulledModel:
    """A model on this machine, as `flaxen list` has it."""

    name: str
    kind: str  # safetensors, GGUF, or incomplete: a download that is not finished
    num_bytes: int


@dataclass(frozen=True, kw_only=True)
class Network:
    """The settings of the network."""

    is_offline: bool  # by --offline or HF_HUB_OFFLINE
    endpoint: str  # where models are downloaded from
    has_token: bool
    port: int
    is_port_free: bool


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A probe that did not come to its end."""

    probe: str
    error: str
    module: str | None = None  # the module that it could not import, if that was why


@dataclass(frozen=True, kw_only=True)
class Facts:
    """All of it; None where a probe failed, and then `failures` says why."""

    machine: Machine | None = None
    software: Software | None = None
    compute: Compute | None = None
    places: tuple[Place, ...] | None = None
    models: tuple[PulledModel, ...] | None = None
    network: Network | None = None
    failures: tuple[Failure, ...] = ()
