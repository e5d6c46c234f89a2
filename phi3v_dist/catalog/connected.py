"""Which things belong together when some pairs do, also over others in between.

Enters: pairs, as many at a time as one likes. Leaves: for each thing the lowest number of those it belongs to. Each
thing points to a lower one of its own, or to itself; whoever follows the pointers halves the way for the next
(Tarjan and van Leeuwen, Worst-case Analysis of Set Union Algorithms, 1984). All pairs of a call are followed at once
by numpy, in place, so that the pointers may lie in a file.
"""

import numpy as np

from phi3v_dist.mapped_arrays import NewArray, blocks, numbers


class Parts:
    """Things 0 to ``count`` - 1, each in a part of its own until it is joined with another."""

    def __init__(self, count: int, new: NewArray = np.zeros) -> None:
        self._above = numbers(new, count)

    def join(self, first: np.ndarray, second: np.ndarray) -> None:
        """Join things pair by pair: integers [pairs] each."""
        while len(first):
            first, second = self.of(first), self.of(second)
            apart = first != second
            first, second = np.minimum(first, second)[apart], np.maximum(first, second)[apart]
            np.minimum.at(self._above, second, first)

    def of(self, things: np.ndarray) -> np.ndarray:
        """The lowest number in the part of each thing, int64."""
        while True:
            above = self._above[things]
            if np.array_equal(above, things):
                return above
            further = self._above[above]
            self._above[things] = further
            things = further

    def settled(self) -> np.ndarray:
        """The lowest number in the part of every thing, int64 [count]: itself the pointers, for joining no more."""
        for part in blocks(len(self._above)):
            self._above[part] = self.of(np.arange(part.start, part.stop))
        return self._above
