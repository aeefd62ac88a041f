"""python -m trunkline_ops.bench"""

import sys

try:
    from trunkline_ops.bench.command import main

    sys.exit(main())
except KeyboardInterrupt:  # also while modules are loaded
    sys.exit(130)
