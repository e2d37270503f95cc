"""Asks the hub, through its own client, what a repository holds, and explains its refusals.

huggingface_hub takes a third of a second to import, so each function imports it when it is called.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from flaxen.hub.names import HubModel
from flaxen.hub.places import Places
from flaxen.hub.selection import RepoFile

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling


class HubError(ValueError):
    """The hub did not give what was asked for; the message says why, and what to do."""


class Repository(NamedTuple):
    """One commit of a repository."""

    commit: str
    files: tuple[RepoFile, ...]


def look_up(model: HubModel, places: Places) -> Repository:
    """Asks the hub for the files of a repository, with one request.

    Raises:
      HubError: the hub can't be reached, or gives no such repository or revision.
    """
    from huggingface_hub import HfApi

    # The client raises its own errors, those of its HTTP library, and the system's.
    try:
        info = HfApi(endpoint=places.endpoint).model_info(
            model.repo, revision=model.revision, files_metadata=True
        )
    except Exception as error:
        raise HubError(explain(model, error)) from error
    if info.sha is None:
        raise HubError(f"the hub's answer about {model.repo} names no commit: try again later")
    files = tuple(_file(each) for each in info.siblings or () if _stays_inside(each.rfilename))
    return Repository(info.sha, files)


def _file(each: RepoSibling) -> RepoFile:
    if each.lfs is not None:
        return RepoFile(each.rfilename, each.lfs.size, sha256=each.lfs.sha256)
    return RepoFile(each.rfilename, each.size or 0, git_sha1=each.blob_id)


def _stays_inside(name: str) -> bool:
    """Whether a file's path, which the repository's owner chose, leads nowhere else."""
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\\" not in name


def explain(model: HubModel, error: Exception) -> str:
    """Says why the hub or its client refused, and what to do."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    log_in = "log in by `hf auth login`, or set HF_TOKEN to a token of yours"
    if isinstance(error, GatedRepoError):
        return (
            f"{model.repo} is gated: accept its licence at https://huggingface.co/{model.repo}, "
            f"{log_in}, and run the command again"
        )
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"the hub has no model {model.repo}, or it is private: check the name; for a private "
            f"one, {log_in}"
        )
    if isinstance(error, RevisionNotFoundError):
        return (
            f"{model.repo} has no revision {model.revision}: give a branch, a tag or a commit that "
            f"https://huggingface.co/{model.repo}/commits/main names"
        )
    if isinstance(error, OfflineModeIsEnabled):
        return f"{model.repo} was not asked for, because HF_HUB_OFFLINE is set: unset it"
    if isinstance(error, HFValidationError):
        return f"{model.repo} can't be the name of a repository: {error}"
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        return (
            f"the hub answered {status} when asked for {model.repo}. {_on_status(status, log_in)}"
        )
    return (
        f"the hub can't be reached for {model.repo} ({_first_line(error)}). "
        "Check the network, and HF_ENDPOINT if it is set; what was downloaded is kept"
    )


def _on_status(status: int, log_in: str) -> str:
    if status in (401, 403):
        return f"Your token is invalid or may not read it: {log_in}"
    if status == 429:
        return f"These are too many requests: wait some minutes, or {log_in}"
    return "Try again later; what was downloaded is kept"


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
