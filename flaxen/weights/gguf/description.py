"""The keys of a GGUF file beside those of its architecture: what it says of itself, and the
tokenizer.

Deliberately does not know configurations, nor how files are written.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flaxen.text.gguf_tokenizer_writer import write_gguf_tokenizer
from flaxen.text.hf_tokenizer import read_directory
from flaxen.weights.gguf.reader import read_gguf
from flaxen.weights.gguf.writer import OutTensor

_FILE_TYPES = {  # ggml's type number -> general.file_type of a file that has mostly this type
    0: 0, 1: 1, 2: 2, 3: 3, 6: 8, 7: 9, 8: 7, 10: 10, 11: 12, 12: 15, 13: 17, 14: 18, 30: 32,
}  # fmt: skip
_GUESSED = 1024
_QUANTIZATION_VERSION = 2  # of ggml's blocks


def general_metadata(
    name: str, source: Path, tensors: Sequence[OutTensor], *, is_changed: bool
) -> dict[str, Any]:
    """What a file says of itself. The texts of the model's own GGUF file are kept, such as its
    licence.

    Args:
      name: the model's name.
      source: the model's directory or .gguf file.
      tensors: those of the new file.
      is_changed: whether it is another model than the source's, so that its name is not kept.
    """
    # Imported here, because it takes a quarter of a second.
    from gguf import size_label

    given, file_type = _given(source)
    kinds = [each.kind for each in tensors if len(each.stored.shape) > 1]
    if file_type is None or not all(each.keeps_blocks for each in tensors):
        file_type = _FILE_TYPES.get(_commonest(kinds), _GUESSED)
    own_name = {} if is_changed else {"general.name": given.get("general.name", name)}
    num_params = sum(math.prod(each.stored.shape) for each in tensors)
    return {
        **given,
        "general.type": "model",
        "general.name": name,
        **own_name,
        "general.size_label": size_label(num_params, 0, 0, 0),
        "general.file_type": file_type,
        "general.quantization_version": _QUANTIZATION_VERSION,
    }


def _given(source: Path) -> tuple[Mapping[str, Any], int | None]:
    """The texts of a GGUF file about itself, and its file type."""
    if source.is_dir():
        return {}, None
    metadata = read_gguf(source).metadata
    texts = {
        key: value
        for key, value in metadata.items()
        if key.startswith("general.") and (isinstance(value, str) or _is_texts(value))
    }
    return texts, metadata.get("general.file_type")


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _commonest(kinds: Iterable[int]) -> int:
    ((kind, _),) = Counter(kinds).most_common(1)
    return kind


def tokenizer_metadata(source: Path, vocab_size: int) -> dict[str, Any]:
    """The keys of a model's tokenizer: those of its .gguf file as they are, or made of a
    directory's tokenizer.json.

    Raises:
      FileNotFoundError: the directory has no tokenizer.json.
      ValueError: a file is damaged, or GGUF can't describe the tokenizer.
    """
    if source.is_dir():
        return write_gguf_tokenizer(read_directory(source), vocab_size)
    metadata = read_gguf(source).metadata
    return {key: value for key, value in metadata.items() if key.startswith("tokenizer.")}
