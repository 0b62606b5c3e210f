"""`python -m imori`, where no `imori` is on the path."""

import sys

from imori.cli import main

sys.exit(main())
