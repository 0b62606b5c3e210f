"""Shortcuts of ResNet's option A, which end in channels of zeros: TensorFlow crashes at some ways to build them.

In a process of its own, at which a crash stays.
"""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import sys
import numpy as np
import imori
from imori import frameworks
from imori.frameworks.base import Setup
from imori.optimizers import SGD
from imori.tree import Chain, Conv, Flatten, Linear, PadChannels, Subsample, Sum

name = sys.argv[1]
shortcut = Chain(subsample=Subsample(2), pad=PadChannels(5))
biased = Chain(sum=Sum(body=Conv(5, 1, 2), shortcut=shortcut), flatten=Flatten(), fc=Linear(3))
bare = Sum(body=Conv(5, 1), shortcut=PadChannels(5))
resnet = imori.model("resnet_mnist_plain", 3, variant="option_a")
dtypes = ["float32", "float64"]
if name == "keras":
    import keras
    if keras.config.backend() != "tensorflow":
        dtypes = ["float32"]
for tree, shape in ((biased, (3, 6, 6)), (bare, (3, 4, 4)), (resnet, (1, 8, 8))):
    images = np.random.default_rng(0).standard_normal((2, *shape))
    for dtype in dtypes:
        native = imori.build(tree, shape, name, dtype=dtype)
        imori.logits(native, images)
        if name == "tensorflow":
            import tempfile
            import tensorflow as tf
            with tempfile.TemporaryDirectory() as folder:
                tf.saved_model.save(native, folder)
                served = tf.saved_model.load(folder).signatures["serving_default"]
                served(images=tf.constant(images.transpose(0, 2, 3, 1), dtype))
        if tree is not bare:
            trainable = frozenset(key for key in imori.dump_weights(native) if key.endswith(("weight", "bias")))
            step = frameworks.get(name).prepare(native, Setup(SGD(), trainable, precision=dtype))
            step(images, np.eye(3)[:2], np.ones(2), 0.1, key=0)
"""


@pytest.mark.trains
def test_a_sum_with_padded_channels_crashes_nowhere(framework: str) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT, framework], capture_output=True, env=os.environ, check=False)
    assert done.returncode == 0, f"{done.returncode}\n{done.stderr.decode()[-2000:]}"
