"""Downloads the config.json of a repository alone: it says the shapes of a model, in a kilobyte.

Deliberately does not know what is in it.
"""

from __future__ import annotations

import os
from pathlib import Path

from flaxen.hub.client import HubError, explain
from flaxen.hub.local import find_downloaded, find_in_models_dir
from flaxen.hub.names import NAMED, HubModel, PackagedModel, parse_hub_name
from flaxen.hub.places import Places

CONFIG = "config.json"


def find_config(model: str, places: Places) -> Path | None:
    """The config.json of a repository of the hub whose weights are not on this machine.

    Args:
      model: a name for `resolve`.
      places: where models are; the file goes into Hugging Face's cache.

    Returns:
      None if the name means something else: a path, a model that is here, or a GGUF file; or if the
      hub must not be asked.

    Raises:
      HubError: the hub can't be reached, or has no such repository or file.
    """
    wanted = _repository(model, places)
    return None if wanted is None else _fetch(wanted, places)


def _repository(model: str, places: Places) -> HubModel | None:
    if os.path.exists(os.path.expanduser(model)) or places.is_offline:
        return None
    if places.models_dir is not None and find_in_models_dir(model, places.models_dir):
        return None
    wanted = parse_hub_name(model)
    is_named = model in NAMED and not isinstance(NAMED[model], PackagedModel)
    if wanted is None or wanted.selector is not None or not (is_named or "/" in wanted.repo):
        return None
    return None if find_downloaded(wanted, places) else wanted


def _fetch(model: HubModel, places: Places) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        found = hf_hub_download(
            model.repo,
            CONFIG,
            revision=model.revision,
            cache_dir=places.cache,
            endpoint=places.endpoint,
        )
    except EntryNotFoundError as error:
        raise HubError(
            f"{model.repo} has no {CONFIG}, as repositories of GGUF files: download a file of it "
            f"by `flaxen pull {model.repo}`, and name it again"
        ) from error
    except Exception as error:  # the client's errors, those of its HTTP library, and the system's
        raise HubError(f"{model} is not on this machine, and {explain(model, error)}") from error
    return Path(found)
