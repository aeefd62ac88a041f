"""python -m trunkline_ops.demo"""

import sys

try:
    from trunkline_ops.demo.command import main

    sys.exit(main())
except KeyboardInterrupt:  # also while modules are loaded
    sys.exit(130)
