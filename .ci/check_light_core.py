"""Checks what the README says of its first command: light, without a framework, right on 97 % of the test digits."""

import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path

import imori

LEAST_ACCURACY, MOST_BYTES = 0.97, 200e6
FRAMEWORKS = ("torch", "tensorflow", "keras", "jax", "flax", "chainer", "onnxruntime")

site = Path(sysconfig.get_path("purelib"))
size = sum(file.stat().st_size for file in site.rglob("*") if file.is_file())
score = imori.load(sys.argv[1]).score("digits")
print(f"{score.accuracy:.2%} of {score.images} test digits; {size / 1e6:.0f} MB of site-packages")

assert score.accuracy >= LEAST_ACCURACY, f"the README promises {LEAST_ACCURACY:.0%}"
assert size < MOST_BYTES, f"the README promises less than {MOST_BYTES / 1e6:.0f} MB"
installed = [name for name in FRAMEWORKS if find_spec(name)]
assert not installed, f"the light core brought {installed}"
