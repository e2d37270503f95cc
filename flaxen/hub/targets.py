"""Where a download goes: Hugging Face's cache, or a directory of plain files.

In both, files are kept by their hash until all of a model's are there, and only then get their
names, so that nothing half-written counts as a model.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, final

from flaxen.hub.fetch import has_contents
from flaxen.hub.names import HubModel
from flaxen.hub.places import Places
from flaxen.hub.selection import RepoFile

_COMMIT = re.compile(r"[0-9a-f]{7,40}")  # or the first letters of one
STAGING = ".incomplete"  # in a directory of plain files: files of a download that is not finished


class Target(Protocol):
    """The destination of a download."""

    @property
    def root(self) -> Path:
        """The model's directory; it need not exist yet."""
        ...

    def place(self, file: RepoFile) -> Path:
        """Where a file is kept by its hash."""
        ...

    def holds(self, file: RepoFile) -> bool:
        """Whether the file is there already, whole."""
        ...

    def finish(self, files: Sequence[RepoFile]) -> Path:
        """Gives the files their names, and returns the directory with them."""
        ...


def target_of(model: HubModel, commit: str, places: Places) -> Target:
    """The destination of a model's download."""
    if places.models_dir is not None:
        return _Directory(directory_of(places.models_dir, model))
    return _Cache(model, commit, places)


def directory_of(models_dir: Path, model: HubModel) -> Path:
    """The directory of a repository in a directory of models."""
    at = "" if model.revision == "main" else f"@{model.revision}"
    return models_dir / f"{model.repo}{at}"


def cached_repo(cache: Path, model: HubModel) -> Path:
    """The directory of a repository in Hugging Face's cache.

    https://huggingface.co/docs/huggingface_hub/guides/manage-cache
    """
    return cache / f"models--{model.repo.replace('/', '--')}"


def snapshot_of(cache: Path, model: HubModel) -> Path | None:
    """The directory of a revision's files in Hugging Face's cache, or None."""
    repo = cached_repo(cache, model)
    ref = repo / "refs" / model.revision
    commit = ref.read_text().strip() if ref.is_file() else model.revision
    if not _COMMIT.fullmatch(commit):
        return None
    found = [path for path in (repo / "snapshots").glob(f"{commit}*") if path.is_dir()]
    return found[0] if len(found) == 1 else None


@final
@dataclass(frozen=True)
class _Cache:
    """Hugging Face's cache, in the layout that its documentation gives."""

    model: HubModel
    commit: str
    places: Places

    @property
    def root(self) -> Path:
        return cached_repo(self.places.cache, self.model)

    def place(self, file: RepoFile) -> Path:
        assert file.digest is not None, f"{file.name} has no hash"
        return self.root / "blobs" / file.digest

    def holds(self, file: RepoFile) -> bool:
        return self.place(file).exists()  # its name is its hash

    def finish(self, files: Sequence[RepoFile]) -> Path:
        from huggingface_hub import hf_hub_download

        for file in files:  # the client finds the contents by their hash, and links them
            hf_hub_download(
                self.model.repo,
                file.name,
                revision=self.commit,
                cache_dir=self.places.cache,
                endpoint=self.places.endpoint,
            )
        if self.model.revision != self.commit:
            ref = self.root / "refs" / self.model.revision
            ref.parent.mkdir(parents=True, exist_ok=True)
            # The name is this thread's own: two threads may finish the same repository at once.
            new = ref.with_name(f"{ref.name}.{os.getpid()}-{threading.get_ident()}.new")
            new.write_text(self.commit)
            new.replace(ref)
        return self.root / "snapshots" / self.commit


@final
@dataclass(frozen=True)
class _Directory:
    """A directory of plain files."""

    root: Path

    def place(self, file: RepoFile) -> Path:
        assert file.digest is not None, f"{file.name} has no hash"
        return self.root / STAGING / file.digest

    def holds(self, file: RepoFile) -> bool:
        return self.place(file).exists() or has_contents(self.root / file.name, file)

    def finish(self, files: Sequence[RepoFile]) -> Path:
        # A directory without config.json is no model yet, so that file comes last.
        names_left = Counter(file.digest for file in files)
        for file in sorted(files, key=lambda each: each.name == "config.json"):
            kept, named = self.place(file), self.root / file.name
            names_left[file.digest] -= 1
            if not kept.exists():  # the file was there under its name already
                continue
            named.parent.mkdir(parents=True, exist_ok=True)
            if names_left[file.digest]:  # another name has the same contents
                shutil.copyfile(kept, named)
            else:
                kept.replace(named)
        with contextlib.suppress(OSError):  # another process downloads another file of the model
            (self.root / STAGING).rmdir()
        return self.root
