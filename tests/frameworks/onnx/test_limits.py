"""What ONNX and ONNX Runtime cannot do: each entry of docs/limits.md, shown by them alone."""

from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from PIL import Image

FATAL = 4
FLOAT = TensorProto.FLOAT


def session(nodes: list[Any], dims: list[Any], dtype: int = FLOAT) -> ort.InferenceSession:
    """Of a graph from x to y."""
    inputs, outputs = ([helper.make_tensor_value_info(name, dtype, of)] for name, of in (("x", dims), ("y", None)))
    graph = helper.make_graph(nodes, "graph", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = FATAL, 1
    return ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])


def refuses(says: str, nodes: list[Any], dtype: int = FLOAT) -> None:
    with pytest.raises(Exception, match=says) as refusal:
        session(nodes, [1, 3, 6, 6], dtype)
    assert "onnxruntime" in type(refusal.value).__module__


def test_no_float64() -> None:
    weight = helper.make_tensor("w", TensorProto.DOUBLE, (2, 3, 1, 1), np.ones(6))
    nodes = [helper.make_node("Constant", [], ["w"], value=weight), helper.make_node("Conv", ["x", "w"], ["y"])]
    refuses("NOT_IMPLEMENTED", nodes, TensorProto.DOUBLE)


def test_inner_values_are_not_given() -> None:
    made = session([helper.make_node("Relu", ["x"], ["inner"]), helper.make_node("Tanh", ["inner"], ["y"])], [2])
    with pytest.raises(Exception, match="Invalid output name:inner"):
        made.run(["inner"], {"x": np.ones(2, np.float32)})


def test_lrn_without_effect_is_refused() -> None:
    for without in ({"alpha": 0.0}, {"beta": 0.0}):
        refuses("was false", [helper.make_node("LRN", ["x"], ["y"], size=3, **without)])


def test_antialiased_resize_is_not_pillows() -> None:
    """At the edges it goes beyond the photo; and of a part it does not see how much smaller that becomes."""
    photo = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    sizes = helper.make_tensor("sizes", TensorProto.INT64, [4], [1, 3, 64, 64])
    for mode, roi, box in (
        ("half_pixel", (0.0, 0.0, 1.0, 1.0), (0, 0, 400, 300)),
        ("tf_crop_and_resize", (1.84375 / 299, 51.84375 / 399, 297.15625 / 299, 347.15625 / 399), (50, 0, 350, 300)),
    ):
        region = helper.make_tensor("roi", FLOAT, [8], [0, 0, *roi[:2], 1, 1, *roi[2:]])
        names = [helper.make_node("Constant", [], [each.name], value=each) for each in (region, sizes)]
        resize = helper.make_node(
            "Resize", ["x", "roi", "", "sizes"], ["y"], mode="linear", antialias=1, coordinate_transformation_mode=mode
        )
        made = session([*names, resize], [1, 3, 300, 400], TensorProto.UINT8)
        ours = made.run(None, {"x": photo.transpose(2, 0, 1)[None]})[0][0].transpose(1, 2, 0)
        pillows = np.asarray(Image.fromarray(photo).resize((64, 64), Image.Resampling.BILINEAR, box))
        off = np.abs(ours.astype(int) - pillows)
        assert off.max() > 5, mode
        if mode == "half_pixel":
            assert off[2:-2, 2:-2].max() <= 1
