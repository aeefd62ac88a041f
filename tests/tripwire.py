"""Where a program of a test stands still, until it is told to go on."""

import sys


class Tripwire:
    """Across the way of the data, at one point of it, at the given time."""

    point = ""
    times = 0

    def at(self, point: str) -> None:
        """Stands still, if this is the point: says that it tripped, and reads a line."""
        if point == self.point:
            self.times -= 1
            if self.times == 0:
                print("tripped", flush=True)
                sys.stdin.readline()
