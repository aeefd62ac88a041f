"""python -m trunkline_ops.soak"""

import sys

try:
    from trunkline_ops.soak.command import main

    sys.exit(main())
except KeyboardInterrupt:  # also while modules are loaded
    sys.exit(130)
