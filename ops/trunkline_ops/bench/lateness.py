"""How late the machine itself is: a timer of one millisecond, over and over: python -m trunkline_ops.bench.lateness"""

from __future__ import annotations

import time
from typing import Final

from trunkline_ops.demo.leash import report

_REPORT_SECONDS: Final = 0.05


def _measure() -> None:
    late_ms, told = list[float](), time.perf_counter()
    while True:
        begun = time.perf_counter()
        time.sleep(0.001)
        ended = time.perf_counter()
        late_ms.append(round(1000 * (ended - begun) - 1, 4))
        if ended - told > _REPORT_SECONDS:
            report(late_ms=late_ms)
            late_ms, told = [], ended


if __name__ == "__main__":
    _measure()
