"""Prompts of the command line, of files, and of the standard input.

Deliberately does not know models.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

STDIN = "-"


def read_prompts(
    texts: Sequence[str], files: Sequence[Path], lines: Path | None, stdin: TextIO
) -> list[str]:
    """Reads the prompts of a command, in the order of the arguments.

    Args:
      texts: prompts as they are; - is the whole standard input.
      files: files with one prompt each; - is the whole standard input.
      lines: a file with a prompt on each line that is not blank; - is the standard input. Without
          any of the three, the whole standard input is a prompt, unless that is a terminal.
      stdin: the standard input.

    Raises:
      ValueError: there is no prompt, one is empty, or the standard input is named twice.
      OSError: a file can't be read.
    """
    named = [*texts, *map(str, files), *([] if lines is None else [str(lines)])]
    if not named:
        if stdin.isatty():
            raise ValueError(
                "give a prompt: -p TEXT, --file FILE, --prompts-file FILE with one on each line, "
                "or the standard input, as in: echo 'Once upon a time' | flaxen generate MODEL"
            )
        texts = [STDIN]
    elif named.count(STDIN) > 1:
        raise ValueError("the standard input (-) is named twice, and can be read only once")
    prompts = [read_text(Path(STDIN), stdin) if text == STDIN else text for text in texts]
    prompts += [read_text(file, stdin) for file in files]
    if not all(prompts):
        raise ValueError("a prompt is empty: write at least a word")
    return prompts if lines is None else prompts + read_lines(lines, stdin)


def read_text(file: Path, stdin: TextIO) -> str:
    """Reads a prompt: the file's text without the newline that editors and shells put at its end.

    Raises:
      ValueError: the file is not valid UTF-8.
      OSError: it can't be read.
    """
    try:
        text = stdin.read() if str(file) == STDIN else file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not text in UTF-8: {error}") from None
    return text.removesuffix("\n").removesuffix("\r")


def read_lines(file: Path, stdin: TextIO) -> list[str]:
    """Reads the lines of a file that are not blank; each is a prompt.

    Raises:
      ValueError: all lines are blank, or the file is not valid UTF-8.
      OSError: it can't be read.
    """
    lines = [line for line in read_text(file, stdin).splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"{file} is empty: write at least a word")
    return lines
