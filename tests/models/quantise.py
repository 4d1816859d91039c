"""Writes digits_int8.onnx: config/models/digits.onnx with its weights and activations as 8-bit integers (QDQ), for the test
that such a model loads and runs. The build and the tests never run this.

    python3 -m venv venv && venv/bin/pip install -r ../../config/models/training/requirements.txt
    venv/bin/python quantise.py
"""

import sys
from pathlib import Path

import numpy as np
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

HERE = Path(__file__).resolve().parent
MODELS = HERE.parent.parent / "config" / "models"
sys.path[:0] = [str(MODELS), str(MODELS / "training")]

import train_digits  # noqa: E402


class Scans(CalibrationDataReader):
    """What activations look like: variants of 128 training scans."""

    def __init__(self):
        (scans, labels), _ = train_digits.split("stratified")
        inputs, _ = train_digits.training_set(scans[:128], labels[:128], 2)
        side = train_digits.SIDE
        self.inputs = iter(np.asarray(inputs, dtype=np.float32).reshape(-1, 1, 1, side, side))

    def get_next(self):
        picture = next(self.inputs, None)
        return None if picture is None else {"image": picture}


if __name__ == "__main__":
    quantize_static(
        MODELS / "digits.onnx",
        HERE / "digits_int8.onnx",
        Scans(),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
    )
