"""How text is split into words before byte-level merges, by the name in a GGUF file.

The patterns are those of each model family, the names those of llama.cpp (`tokenizer.ggml.pre`):
https://github.com/ggml-org/llama.cpp/blob/master/src/llama-vocab.cpp. An unknown name is refused:
with a wrong split the model would get other ids than in its training, without any error.

Deliberately does not know: vocabularies, merges, ids.
"""

from __future__ import annotations

from dataclasses import dataclass

from tokenizers import Regex, pre_tokenizers

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"


def _words(digits: str) -> str:
    """Splits contractions; words with one mark before; digits; marks with line ends after them."""
    words = r"|[^\r\n\p{L}\p{N}]?\p{L}+|"
    return _CONTRACTION + words + digits + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _SPACES


def _cased_words(digits: str, end: str) -> str:
    """Like `_words`, but also splits a word where capitals begin; `end` belongs to the word."""
    word = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{end}|"
    capitals = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{end}|"
    return word + capitals + digits + r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + _SPACES


_LLAMA3 = _words(r"\p{N}{1,3}")
_QWEN2 = _words(r"\p{N}")
_DEEPSEEK_V3 = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|"""
    r" ?[\p{P}\p{S}]+[\r\n]*|" + _SPACES
)


@dataclass(frozen=True, kw_only=True)
class WordSplit:
    """Patterns that split a text; each splits the pieces that the pattern before it left."""

    patterns: tuple[str, ...]
    nfc: bool = False  # compose characters (Unicode NFC) first
    ignore_merges: bool = False  # a word in the vocabulary is one token, whatever the merges say
    add_bos: bool = False  # the default if the file does not say

    def build(self) -> pre_tokenizers.PreTokenizer:
        """Builds the pre-tokenizer: the splits, then bytes in GPT-2's alphabet."""
        splits = [pre_tokenizers.Split(Regex(p), behavior="isolated") for p in self.patterns]
        to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        return pre_tokenizers.Sequence([*splits, to_bytes])


_GPT2_SPLIT = WordSplit(patterns=(_GPT2,))
_DIGITS_SPLIT = WordSplit(patterns=(r"\p{N}", _GPT2))
_LLAMA3_SPLIT = WordSplit(patterns=(_LLAMA3,), ignore_merges=True, add_bos=True)
_GPT4O_SPLIT = WordSplit(patterns=(_cased_words(r"\p{N}{1,3}", f"{_CONTRACTION}?"),))

WORD_SPLITS = {
    "default": WordSplit(patterns=(r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]")),
    "gpt-2": _GPT2_SPLIT,
    "phi-2": _GPT2_SPLIT,
    "mpt": _GPT2_SPLIT,
    "olmo": _GPT2_SPLIT,
    "jais": _GPT2_SPLIT,
    "smollm": _DIGITS_SPLIT,
    "starcoder": _DIGITS_SPLIT,
    "refact": _DIGITS_SPLIT,
    "command-r": _DIGITS_SPLIT,
    "codeshell": _DIGITS_SPLIT,
    "exaone": _DIGITS_SPLIT,
    "llama-bpe": _LLAMA3_SPLIT,
    "llama3": _LLAMA3_SPLIT,
    "llama-v3": _LLAMA3_SPLIT,
    "falcon3": _LLAMA3_SPLIT,
    "pixtral": _LLAMA3_SPLIT,
    "lfm2": _LLAMA3_SPLIT,
    "dbrx": WordSplit(patterns=(_LLAMA3,)),
    "smaug-bpe": WordSplit(patterns=(_LLAMA3,)),
    "qwen2": WordSplit(patterns=(_QWEN2,), nfc=True),
    "deepseek-r1-qwen": WordSplit(patterns=(_QWEN2,)),
    "deepseek-v3": WordSplit(
        patterns=(r"\p{N}{1,3}", r"[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+", _DEEPSEEK_V3)
    ),
    "tekken": WordSplit(patterns=(_cased_words(r"\p{N}", ""),), ignore_merges=True, add_bos=True),
    "gpt-4o": _GPT4O_SPLIT,
    "llama4": _GPT4O_SPLIT,
}
