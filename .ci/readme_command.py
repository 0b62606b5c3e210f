"""Prints the README's first or second command, as it is written there: the lines of its n-th ```sh block."""

import re
import sys
from pathlib import Path

readme = Path(__file__).parent.parent / "README.md"
blocks = re.findall(r"^```sh\n(.*?)^```$", readme.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
print(blocks[int(sys.argv[1]) - 1].strip())
