"""Installs, without a network, those wheels of a folder whose package the machine lacks or has in
another version than flaxen asks for.

    python tools/device/install.py FOLDER SITE

They go to a folder of their own, so that the machine's libraries stay as they are for others.
"""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

from packaging.requirements import Requirement

_ROOT = Path(__file__).parents[2]


def main() -> None:
    folder, site = map(Path, sys.argv[1:])
    with (_ROOT / "pyproject.toml").open("rb") as file:
        listed = tomllib.load(file)["project"]["dependencies"]
    wheels = needed(sorted(folder.glob("*.whl")), listed)
    if wheels:
        command = ["pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
        command += ["--upgrade", "--target", str(site), *map(str, wheels)]
        subprocess.run([sys.executable, "-m", *command], check=True)
    print(f"installed {len(wheels)} wheels: {', '.join(map(_name, wheels))}", file=sys.stderr)


def needed(wheels: Iterable[Path], listed: Iterable[str]) -> list[Path]:
    """The wheels whose package is missing here, or does not fit.

    Args:
      wheels: files, as pip names them.
      listed: flaxen's requirements.
    """
    asked = {_canonical(each.name): each for each in map(Requirement, listed)}
    found = []
    for wheel in wheels:
        requirement = asked.get(_name(wheel))
        version = _version(_name(wheel))
        if version is None or (requirement and not requirement.specifier.contains(version)):
            found.append(wheel)
    return found


def _name(wheel: Path) -> str:
    return _canonical(wheel.name.split("-")[0])


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
