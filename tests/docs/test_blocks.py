"""Which blocks a page has."""

from __future__ import annotations

import pytest

from tests.docs.blocks import Block, find_blocks, find_commands

PAGE = """
Text.

```python
# mine.py
x = 1
```

- an item

  ```console
  $ flaxen train \\
      run.yaml
  loss 1.0
  $ ls
  ```

<!-- file: a.jsonl -->
```json
{"text": "x"}
```

<!-- not run: there is no Docker here -->

```console
$ docker build .
```
"""


def test_blocks_and_their_files() -> None:
    assert list(find_blocks(PAGE)) == [
        Block(line=5, language="python", code="# mine.py\nx = 1\n", file="mine.py"),
        Block(
            line=12,
            language="console",
            code="$ flaxen train \\\n    run.yaml\nloss 1.0\n$ ls\n",
        ),
        Block(line=20, language="json", code='{"text": "x"}\n', file="a.jsonl"),
        Block(
            line=26,
            language="console",
            code="$ docker build .\n",
            not_run="there is no Docker here",
        ),
    ]


def test_commands_without_their_output() -> None:
    code = "$ flaxen train \\\n    run.yaml\nloss 1.0\n$ ls\n"
    assert list(find_commands(code)) == ["flaxen train \\\n    run.yaml", "ls"]


@pytest.mark.parametrize(
    ("page", "message"),
    [("```\nx\n```\n", "line 1 has no language"), ("```python\nx\n", "line 1 is never closed")],
)
def test_a_block_that_nobody_can_run(page: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(find_blocks(page))
