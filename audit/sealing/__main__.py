"""`python -m audit.sealing DATA`."""

import sys

from audit.companion import read_plan
from audit.sealing.process import main

sys.exit(main(sys.argv[1], read_plan()))
