"""Downloads a model: first a plan, with its size and the room for it, then the files."""

from __future__ import annotations

import functools
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from flaxen.hub.client import HubError, explain, look_up
from flaxen.hub.fetch import fetch, num_fetched
from flaxen.hub.names import HubModel
from flaxen.hub.places import Places
from flaxen.hub.selection import RepoFile, Selection, select_files
from flaxen.hub.sizes import format_size
from flaxen.hub.targets import Target, target_of

logger = logging.getLogger("flaxen.weights")

# Called with the name of the file that is downloaded, the bytes of the model that are there, and
# its size in bytes.
OnDownload = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a download will do."""

    model: HubModel
    commit: str
    selection: Selection
    target: Target
    missing: tuple[RepoFile, ...]  # the files that are not there, or in part only
    num_missing: int  # bytes to download
    num_free: int  # bytes free on the disk


def _free(directory: Path) -> int:
    """The bytes that are free for a directory, which need not exist yet."""
    path = directory.absolute()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def plan(model: HubModel, places: Places, num_free_of: Callable[[Path], int] = _free) -> Plan:
    """Asks the hub what a model consists of, and looks at what is here.

    Args:
      model: the model.
      places: where it goes.
      num_free_of: the bytes that are free on the disk of a directory.

    Raises:
      HubError: the hub can't be reached, or gives no such repository or revision.
      ValueError: the repository holds no such model, or the disk has no room for it.
    """
    repository = look_up(model, places)
    selection = select_files(model.repo, repository.files, model.selector)
    target = target_of(model, repository.commit, places)
    missing = tuple(file for file in selection.files if not target.holds(file))
    num_missing = sum(max(0, file.size - num_fetched(target.place(file))) for file in missing)
    num_free = num_free_of(target.root)
    if num_missing > num_free:
        raise ValueError(
            f"{model} needs {format_size(num_missing)} more, and the disk of {target.root} has "
            f"{format_size(num_free)} free. Make room (`flaxen list` says what models take), or "
            "give a directory on another disk by --models-dir"
        )
    return Plan(
        model=model,
        commit=repository.commit,
        selection=selection,
        target=target,
        missing=missing,
        num_missing=num_missing,
        num_free=num_free,
    )


def download(plan: Plan, places: Places, on_download: OnDownload) -> Path:
    """Downloads what is missing.

    Returns:
      The model's GGUF file, or its directory.

    Raises:
      HubError: the hub or the network refused; what has arrived is kept.
      ValueError: a file arrived damaged, or the disk is full.
      OSError: the directory can't be written.
    """
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    total = plan.selection.size
    done = total - plan.num_missing
    name = ""

    def on_bytes(num_bytes: int) -> None:
        nonlocal done
        done += num_bytes
        on_download(name, done, total)

    headers = build_hf_headers()
    for file in plan.missing:
        name = file.name
        url = hf_hub_url(plan.model.repo, file.name, revision=plan.commit, endpoint=places.endpoint)
        on_bytes(0)
        is_there = functools.partial(plan.target.holds, file)
        try:
            fetch(file, url, headers, plan.target.place(file), is_there, on_bytes)
        except ValueError:  # fetch has said what is wrong
            raise
        except Exception as error:  # the client's errors, and those of its HTTP library
            if isinstance(error, OSError) and not _is_of_the_client(error):
                raise
            raise HubError(explain(plan.model, error)) from error
    directory = plan.target.finish(plan.selection.files)
    gguf = plan.selection.gguf
    return directory if gguf is None else directory / gguf.name


def _is_of_the_client(error: OSError) -> bool:
    from huggingface_hub.errors import HfHubHTTPError

    return isinstance(error, HfHubHTTPError | ConnectionError) or error.errno is None


def pull(model: HubModel, places: Places, on_download: OnDownload) -> Path:
    """Downloads a model, unless all of it is here.

    Returns:
      The model's GGUF file, or its directory.

    Raises:
      HubError: the hub or the network refused, or there is no such repository or revision.
      ValueError: the repository holds no such model, a file arrived damaged, or the disk is full.
      OSError: the directory can't be written.
    """
    planned = plan(model, places)
    if planned.missing:
        size, root = format_size(planned.num_missing), planned.target.root
        logger.info("downloading %s: %s into %s", model, size, root)
    return download(planned, places, on_download)
