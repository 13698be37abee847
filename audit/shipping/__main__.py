"""`python -m audit.shipping DATA`, its plan on standard input."""

import sys

from audit.companion import read_plan
from audit.shipping.process import main

sys.exit(main(sys.argv[1], read_plan()))
