"""A definition as a directory: its parameters and tokenizer, and where its code is.

The directory holds `model.safetensors`, in which each array is named by its path in the tree of
parameters; `definition.json`, with the name of the code and a hash of its source; and the
tokenizer's files. Code is never written into it. Deliberately does not know training, or the
framework of the definition.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from flaxen.definitions.definition import Definition
from flaxen.definitions.signing import is_signed, key_file, sign
from flaxen.definitions.user_definition import find_definition, make_definition
from flaxen.hub.resolve import resolve
from flaxen.hub.weight_files import DESCRIPTION, SINGLE, read_json
from flaxen.models.model import Params
from flaxen.text.tokenizer import Tokenizer
from flaxen.weights.atomic import new_directory
from flaxen.weights.huggingface.tokenizer import write_tokenizer
from flaxen.weights.reference import Reference, source_digest
from flaxen.weights.safetensors_writer import Leaf, write_in_turn

_FORMAT, _VERSION = "flaxen-definition", 1
_REMEDY = "--definition FILE.py:NAME (in Python definition=)"

logger = logging.getLogger("flaxen.weights")


def is_definition(path: Path) -> bool:
    """Whether a path is the directory of a definition."""
    return (path / DESCRIPTION).is_file()


def save_definition(
    directory: Path,
    definition: Definition,
    *,
    dtype: jnp.dtype | None = None,
    chat_template: str | None = None,
    keys: Path | None = None,
) -> None:
    """Writes a definition atomically.

    Args:
      directory: the new directory's name; it must not exist or be empty.
      definition: the definition, with the parameters to write.
      dtype: of floating-point arrays in the file; None keeps each array's own. Collections that
          are not trained keep theirs in any case.
      chat_template: a Jinja template to write, which takes precedence over the tokenizer's own.
      keys: the file of the key that signs the code's name; None is this user's.

    Raises:
      ValueError: the directory is not empty, or the tokenizer can't be found.
      OSError: the directory can't be written.
    """
    source: Path | Tokenizer
    if isinstance(definition.tokenizer, Tokenizer):
        source = definition.tokenizer
    else:
        path = Path(os.path.expanduser(definition.tokenizer))
        has_file = (path / "tokenizer.json").is_file()
        source = path if has_file else resolve(str(definition.tokenizer))
    with new_directory(directory) as filling:
        write_in_turn(filling / SINGLE, _leaves(definition, dtype), {"format": _FORMAT})
        write_tokenizer(filling, source)
        if chat_template is not None:
            (filling / "chat_template.jinja").write_text(chat_template, encoding="utf-8")
        fields = {
            "format": _FORMAT,
            "version": _VERSION,
            "name": definition.name,
            "code": _code(definition.reference, keys or key_file()),
        }
        text = json.dumps(fields, indent=2) + "\n"
        (filling / DESCRIPTION).write_text(text, encoding="utf-8")


def open_definition(
    directory: Path, definition: Definition | str | None = None, *, keys: Path | None = None
) -> Definition:
    """Opens what `save_definition` wrote: the definition with the parameters of the directory.

    Args:
      directory: the directory.
      definition: the definition, or FILE.py:NAME; None runs the code that the directory names, if
          this user's flaxen wrote the name on this machine and the source is the same as then.
      keys: as in save_definition.

    Raises:
      ValueError: the directory is damaged, its code is not found or not to be run, or its
          parameters do not fit the definition.
    """
    fields = _read_description(directory)
    if isinstance(definition, str):
        found = find_definition(definition)
        if found is None:
            raise ValueError(
                f"{definition!r} is no FILE.py:NAME or package.module:NAME: name the function that "
                "makes the definition"
            )
        _warn_of_change(directory, found.reference, fields["code"])
    elif definition is None:
        recorded = _recorded(directory, fields["code"], keys or key_file())
        found = make_definition(recorded)
        _check_same_file(directory, recorded, found.reference)
    else:
        found = definition
    params = _read_params(directory / SINGLE, found)
    return dataclasses.replace(found, params=params, tokenizer=directory, name=fields["name"])


def _code(reference: Reference | None, keys: Path | None) -> dict[str, Any] | None:
    if reference is None:
        return None
    assert reference.file is not None, "a definition's code was run"
    code = {
        "file": str(reference.file),
        "module": reference.module,
        "name": reference.name,
        "sha256": source_digest(reference.file),
    }
    return {**code, "signature": sign(_signed_text(code), keys)}


def _signed_text(code: dict[str, Any]) -> str:
    return json.dumps([code[name] for name in ("file", "module", "name", "sha256")])


def _read_description(directory: Path) -> dict[str, Any]:
    file = directory / DESCRIPTION
    fields = read_json(file)
    if fields.get("format") != _FORMAT or fields.get("version") != _VERSION:
        raise ValueError(
            f"{file} has the format {fields.get('format')!r} of version {fields.get('version')!r}, "
            f"and this flaxen reads {_FORMAT!r} of version {_VERSION}: update flaxen"
        )
    code = fields.get("code")
    is_code = isinstance(code, dict) and all(
        isinstance(code.get(name), str) for name in ("file", "name", "sha256")
    )
    if not isinstance(fields.get("name"), str) or not (code is None or is_code):
        raise ValueError(f"{file} is damaged: write the directory again")
    return fields


def _recorded(directory: Path, code: dict[str, Any] | None, keys: Path | None) -> Reference:
    """The reference that a directory names, if its code may be run."""
    if code is None:
        raise ValueError(
            f"{directory} holds the parameters of a definition that was made in Python, so it "
            f"names no code: give {_REMEDY}"
        )
    reference = Reference(name=code["name"], module=code.get("module"), file=Path(code["file"]))
    own = f"--definition {reference}"
    if not is_signed(_signed_text({"module": None, **code}), code.get("signature"), keys):
        raise ValueError(
            f"{directory} names {reference} as its definition, and that name is not signed by you "
            f"on this machine, so the code is not run by itself: if you trust it, add {own} (in "
            "Python definition=)"
        )
    if not Path(code["file"]).is_file():
        raise ValueError(
            f"{directory} names {reference} as its definition, and {code['file']} does not exist "
            f"any more: give its new place by {_REMEDY}"
        )
    now = source_digest(Path(code["file"]))
    if now != code["sha256"]:
        raise ValueError(
            f"{code['file']} has changed since {directory} was written (its SHA-256 was "
            f"{code['sha256'][:12]} and is {now[:12]}): add {own} (in Python definition=) to use "
            "it as it is now"
        )
    return reference


def _check_same_file(directory: Path, recorded: Reference, found: Reference | None) -> None:
    """Refuses a module that is imported from another file than the one that was compared."""
    assert found is not None
    if found.file != recorded.file:
        raise ValueError(
            f"{directory} names {recorded} as its definition, which was in {recorded.file} and is "
            f"imported from {found.file} now: add --definition {recorded} (in Python definition=) "
            "to use that"
        )


def _warn_of_change(
    directory: Path, reference: Reference | None, code: dict[str, Any] | None
) -> None:
    if code is None or reference is None or reference.file is None:
        return
    if source_digest(reference.file) != code["sha256"]:
        logger.warning(
            "%s is not the source with which %s was written; it is used as you asked",
            *(reference.file, directory),
        )


def _read_params(file: Path, definition: Definition) -> Params:
    if not file.is_file():
        raise ValueError(f"{file} does not exist: {file.parent} is not complete")
    leaves, tree = jax.tree.flatten(definition.params)
    structure: Any = tree  # JAX does not annotate its class
    names = _names(definition.params)
    try:
        with safe_open(file, framework="flax") as opened:
            _check_names(file, set(opened.keys()), set(names))
            found = [opened.get_tensor(name) for name in names]
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file} can't be read: {error}") from None
    for name, ours, leaf in zip(names, leaves, found, strict=True):
        if tuple(np.shape(ours)) != leaf.shape:
            raise ValueError(
                f"{name} has the shape {list(leaf.shape)} in {file}, and in the definition "
                f"{list(np.shape(ours))}: the definition is another than the one that was trained"
            )
    params: Params = jax.tree.unflatten(structure, found)
    return params


def _leaves(definition: Definition, dtype: jnp.dtype | None) -> list[Leaf]:
    """The arrays of a definition, cast on the host as they are written."""
    trained = definition.model.trained

    def one(path: tuple[Any, ...], leaf: Any) -> Leaf:
        wanted = leaf.dtype
        if dtype is not None and (trained is None or path[0].key == trained):
            is_float = jnp.issubdtype(wanted, jnp.floating)
            wanted = dtype if is_float else jax.dtypes.canonicalize_dtype(wanted)
        return Leaf(
            name=jax.tree_util.keystr(path),
            shape=tuple(leaf.shape),
            dtype=np.dtype(wanted),
            read=lambda: np.asarray(leaf).astype(wanted, copy=False),
        )

    return [one(path, leaf) for path, leaf in jax.tree.flatten_with_path(definition.params)[0]]


def _names(tree: Params) -> list[str]:
    """The leaves' paths as Python writes them, which are unique."""
    return [jax.tree_util.keystr(path) for path, _ in jax.tree.flatten_with_path(tree)[0]]


def _check_names(file: Path, found: set[str], wanted: set[str]) -> None:
    said = [
        f"{who} {', '.join(sorted(names)[:3])}{' and others' if len(names) > 3 else ''}"
        for who, names in (
            ("the file lacks", wanted - found),
            ("the definition has no", found - wanted),
        )
        if names
    ]
    if said:
        raise ValueError(
            f"{file} is not of this definition: {'; '.join(said)}. Give the definition that was "
            "trained"
        )
