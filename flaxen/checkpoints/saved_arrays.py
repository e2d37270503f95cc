"""The arrays in the files of one checkpoint, of which any part can be read by itself.

Deliberately does not know trees, nor devices.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from safetensors import SafetensorError, safe_open

from flaxen.sharding.parts import Box
from flaxen.tensors.tensor import StoredTensor
from flaxen.tensors.views import narrowed
from flaxen.weights.safetensors import ALL_DTYPES, file_tensors

# Names in a checkpoint's directory, which is named by its step. The index names the files of a
# divided tree.
ARRAYS, INDEX = "arrays.safetensors", "index.json"

_Read = TypeVar("_Read")


class _Piece(NamedTuple):
    """A part of an array, as it is saved."""

    box: Box
    file: Path
    name: str  # in the file


@dataclass(frozen=True, kw_only=True)
class SavedArray:
    """One array of a checkpoint.

    `read(box)` returns a part of it; it raises ValueError if a file is missing or damaged.
    """

    whole: Box
    read: Callable[[Box], np.ndarray]


class SavedArrays:
    """The arrays of a checkpoint; its files are opened when a part in them is read. Final.

    Args:
      directory: the checkpoint's.
      files: the names of its files.
    """

    def __init__(self, directory: Path, files: Sequence[str]) -> None:
        self._files = [directory / name for name in files]
        self._opened: dict[Path, Any] = {}
        self._tensors: dict[Path, dict[str, StoredTensor]] = {}
        self._stack = ExitStack()

    def __enter__(self) -> SavedArrays:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def of(self, name: str, saved: dict[str, Any]) -> SavedArray:
        """The array of a leaf.

        Args:
          name: its path in the tree.
          saved: its entry in the index.

        Raises:
          ValueError: a file is missing or damaged.
        """
        if "parts" not in saved:
            (file,) = self._files
            shape = self._shape(file, name)
            pieces = [_Piece(Box((0,) * len(shape), shape), file, name)]
        else:
            pieces = [
                _Piece(
                    Box(tuple(part["start"]), tuple(part["stop"])),
                    self._files[part["file"]],
                    part["name"],
                )
                for part in saved["parts"]
            ]
        stop = tuple(map(max, zip(*(piece.box.stop for piece in pieces), strict=True)))
        whole = Box((0,) * len(stop), stop)
        if sum(math.prod(piece.box.shape) for piece in pieces) != math.prod(whole.shape):
            raise damaged(self._files[0].with_name(INDEX), f"the parts of {name} are not all of it")
        return SavedArray(whole=whole, read=lambda box: self._read(box, pieces))

    def _read(self, box: Box, pieces: Sequence[_Piece]) -> np.ndarray:
        for piece in pieces:
            if piece.box == box:
                return self._whole(piece)
        if 0 in box.shape:
            return np.empty(box.shape, self._whole(pieces[0]).dtype)
        out: np.ndarray | None = None
        for piece in pieces:
            common = box.common(piece.box)
            if common is None:
                continue
            values = self._part(piece, common.inside(piece.box))
            out = np.empty(box.shape, values.dtype) if out is None else out
            out[common.inside(box)] = values
        assert out is not None, "the pieces are the whole array"
        return out

    def _whole(self, piece: _Piece) -> np.ndarray:
        """All of a piece, by the library."""
        _check_shape(piece, self._shape(piece.file, piece.name))
        found: np.ndarray = self._in_file(piece.file, lambda file: file.get_tensor(piece.name))
        return found

    def _part(self, piece: _Piece, inner: tuple[slice, ...]) -> np.ndarray:
        """A part of a piece. Not by the library, whose slices of columns read all of a tensor."""
        _check_shape(piece, self._shape(piece.file, piece.name))
        if piece.file not in self._tensors:
            self._tensors[piece.file] = file_tensors(piece.file, ALL_DTYPES)
        return _part(self._tensors[piece.file][piece.name], inner)

    def _shape(self, file: Path, name: str) -> tuple[int, ...]:
        return self._in_file(file, lambda opened: tuple(opened.get_slice(name).get_shape()))

    def _in_file(self, file: Path, read: Callable[[Any], _Read]) -> _Read:
        try:
            if file not in self._opened:
                opened = safe_open(file, framework="numpy", backend="pread")
                self._opened[file] = self._stack.enter_context(opened)
            return read(self._opened[file])
        except FileNotFoundError:
            raise ValueError(
                f"{file} is missing, and the checkpoint needs it: {_advice(file)}"
            ) from None
        except (SafetensorError, OSError) as error:
            raise damaged(file, error) from None


def _check_shape(piece: _Piece, shape: Sequence[int]) -> None:
    if tuple(shape) != piece.box.shape:
        raise damaged(
            piece.file,
            f"{piece.name} has the shape {list(shape)}, and the index says {list(piece.box.shape)}",
        )


def _part(stored: StoredTensor, box: tuple[slice, ...]) -> np.ndarray:
    """A part of a tensor in a file, by no more bytes than its rows, or their columns, have."""
    rows, *others = box
    if len(stored.shape) == 2:
        stored = narrowed(stored, 1, others[0].start, others[0].stop)
        return stored.read(rows.start, rows.stop)
    values: np.ndarray = stored.read(rows.start, rows.stop)[(slice(None), *others)]
    return values


def damaged(file: Path, error: Exception | str) -> ValueError:
    """The error of a damaged file of a checkpoint."""
    return ValueError(f"{file} is damaged ({error}): {_advice(file)}")


def _advice(file: Path) -> str:
    return (
        f"delete the directory {file.parent}, and the run resumes from the checkpoint before it, "
        "or begins anew if there is none"
    )
