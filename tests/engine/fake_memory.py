"""What the pages of all cache groups hold on a fake device: token ids, in place of keys."""

from __future__ import annotations

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

    def _slot(self, pages: list[int], position: int) -> int:
        page = pages[position // self._page_size]
        assert page >= 0, "a page behind the window is used"
        return page * self._page_size + position % self._page_size
