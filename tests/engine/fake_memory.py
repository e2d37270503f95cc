"""What the pages of all cache groups hold on a fake device: token ids, in place of keys."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from flaxen.scheduling.config import EngineConfig


class FakeMemory:
    """Empty pages. Each sequence must find its own tokens wherever its layers look.

    Args:
      config: the sizes.
    """

    def __init__(self, config: EngineConfig) -> None:
        self._groups, self._page_size = config.groups, config.page_size
        # Made whole, as on a device: tests measure what the host allocates while it runs.
        self._slots = [[-1] * (each.num_pages * config.page_size) for each in config.groups]
        self._states: list[dict[int, list[int]]] = [{} for _ in config.groups]

    def write(self, pages: list[list[int]], start: int, tokens: list[int]) -> None:
        """Puts the tokens from `start` on into a sequence's pages; a State takes them up.

        Args:
          pages: the sequence's, of each group.
          start: a State begins anew at 0.
          tokens: all of the sequence's, up to the last of the step.
        """
        for i, group in enumerate(self._groups):
            if group.keeps_tokens:
                for at in range(start, len(tokens)):
                    self._slots[i][self._slot(pages[i], at)] = tokens[at]
            else:
                (page,) = pages[i]
                before = self._states[i][page] if start else []
                assert before == tokens[:start], "the State is of other tokens"
                self._states[i][page] = list(tokens)

    def check(self, pages: list[list[int]], start: int, tokens: list[int]) -> None:
        """Asserts that the tokens from `start` on see their sequence's own."""
        for i, group in enumerate(self._groups):
            if group.keeps_tokens:
                first = 0 if group.window is None else max(0, start - group.window + 1)
                slots = [self._slot(pages[i], at) for at in range(first, len(tokens))]
                found = [self._slots[i][slot] for slot in slots]
                assert found == tokens[first:], "the pages hold another sequence's tokens"

    def read_pages(self, pages: Sequence[Sequence[int]]) -> Callable[[], list[np.ndarray]]:
        """As Executor.read_pages: the bytes of a page are its token ids."""
        found = [
            np.array([self._slots[g][page * self._page_size :][: self._page_size] for page in each])
            for g, each in enumerate(pages)
        ]
        return lambda: [each.astype("<i4").view(np.uint8) for each in found]

    def write_pages(
        self, pages: Sequence[Sequence[int]], contents: Sequence[Sequence[np.ndarray]]
    ) -> None:
        """As Executor.write_pages."""
        for g, (each, content) in enumerate(zip(pages, contents, strict=True)):
            for page, row in zip(each, content, strict=True):
                start = page * self._page_size
                self._slots[g][start : start + self._page_size] = row.view("<i4").tolist()

    def _slot(self, pages: list[int], position: int) -> int:
        page = pages[position // self._page_size]
        assert page >= 0, "a page behind the window is used"
        return page * self._page_size + position % self._page_size
