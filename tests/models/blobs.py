"""Writes blobs.onnx: a detector that finds bright discs on dark ground by convolution, for the tests of the step `detect`.

For each of three radii a kernel takes the mean brightness of a disc and subtracts that of the ring around it: 1 where a disc
of just that size lies, at most half of it where a smaller or a larger one does. Nothing is trained and nothing drawn by
chance: the same file comes out every time (numpy and onnx from PyPI; `python blobs.py` writes beside itself).

Input  pixels  [n, 1, 64, 64], brightness 0 to 1
Output boxes   [n, 3072, 4]    centre x, centre y, width, height in pixels; scores [n, 3072]; classes [n, 3072] (int64)
"""

import pathlib

import numpy
import onnx
from onnx import TensorProto, helper, numpy_helper

SIDE, STRIDE = 64, 2
RADII = (3.0, 6.0, 11.0)
REACH = 15  # of the kernels: the largest ring


def kernel(radius):
    y, x = numpy.mgrid[-REACH : REACH + 1, -REACH : REACH + 1]
    distance = numpy.hypot(x, y)
    disc = distance <= radius
    ring = (distance > radius) & (distance <= radius * 1.4 + 0.5)
    return disc / disc.sum() - ring / ring.sum()


def constants():
    kernels = numpy.stack([kernel(radius) for radius in RADII])[:, None].astype(numpy.float32)
    places = numpy.arange(0, SIDE, STRIDE, dtype=numpy.float32) + 0.5
    centre_y, centre_x = numpy.meshgrid(places, places, indexing="ij")
    boxes = [
        numpy.stack([centre_x, centre_y, numpy.full_like(centre_x, 2 * r), numpy.full_like(centre_x, 2 * r)], -1).reshape(-1, 4)
        for r in RADII
    ]
    classes = numpy.repeat(numpy.arange(len(RADII)), places.size**2)
    return {
        "kernels": kernels,
        "one_box": numpy.concatenate(boxes)[None].astype(numpy.float32),
        "one_class": classes[None].astype(numpy.int64),
        "flat": numpy.array([0, -1], numpy.int64),
        "zero": numpy.zeros((1, 1), numpy.float32),
    }


def model():
    given = constants()
    count = given["one_class"].shape[1]
    nodes = [
        helper.make_node("Conv", ["pixels", "kernels"], ["map"], strides=[STRIDE, STRIDE], pads=[REACH, REACH, REACH - 1, REACH - 1]),
        helper.make_node("Reshape", ["map", "flat"], ["response"]),
        helper.make_node("Max", ["response", "zero"], ["scores"]),
        # As many rows as pictures.
        helper.make_node("Shape", ["scores"], ["size"]),
        helper.make_node("Expand", ["one_class", "size"], ["classes"]),
        helper.make_node("Unsqueeze", ["scores", "last"], ["column"]),
        helper.make_node("Mul", ["column", "nothing"], ["zeros"]),
        helper.make_node("Add", ["zeros", "one_box"], ["boxes"]),
    ]
    given["last"] = numpy.array([2], numpy.int64)
    given["nothing"] = numpy.zeros((1, 1, 1), numpy.float32)
    graph = helper.make_graph(
        nodes,
        "blobs",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n", 1, SIDE, SIDE])],
        [
            helper.make_tensor_value_info("boxes", TensorProto.FLOAT, ["n", count, 4]),
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", count]),
            helper.make_tensor_value_info("classes", TensorProto.INT64, ["n", count]),
        ],
        [numpy_helper.from_array(value, name) for name, value in given.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], producer_name="blobs.py")
    made.ir_version = 8
    onnx.checker.check_model(made, full_check=True)
    return made


if __name__ == "__main__":
    onnx.save(model(), pathlib.Path(__file__).with_name("blobs.onnx"))
