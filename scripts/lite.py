"""MindSpore Lite's side of convert_lite.sh, for the Python that its wheel is made for (3.7), without this project.

lite.py convert ONNX|MINDIR MODEL OUT BITS      writes OUT.ms
lite.py predict MODEL.ms IMAGES.npy OUTPUTS.npy
"""

import sys

import mindspore_lite as mslite
import numpy as np

WEIGHT_QUANT = {
    "quant_type": "WEIGHT_QUANT",
    "bit_num": "8",
    "min_quant_weight_size": "0",
    "min_quant_weight_channel": "1",
}


def convert(framework, model, out, bits):
    """Weights in 32 bits as they are, in 16 as float16, in 8 as integers of a scale per channel."""
    converter = mslite.Converter()
    converter.save_type = mslite.ModelType.MINDIR_LITE
    converter.weight_fp16 = bits == "16"
    if bits == "8":
        converter.set_config_info("common_quant_param", WEIGHT_QUANT)
    converter.convert(getattr(mslite.FmkType, framework), model, out)


def predict(path, images, outputs):
    """The outputs for images (n, channels, height, width), which go in with the channels last, n at a time."""
    context = mslite.Context()
    context.target = ["cpu"]
    model = mslite.Model()
    model.build_from_file(path, mslite.ModelType.MINDIR_LITE, context)
    images = np.ascontiguousarray(np.load(images).transpose(0, 2, 3, 1))
    inputs = model.get_inputs()
    if list(inputs[0].shape) != list(images.shape):
        model.resize(inputs, [list(images.shape)])
        inputs = model.get_inputs()
    inputs[0].set_data_from_numpy(images)
    np.save(outputs, model.predict(inputs)[0].get_data_to_numpy())


if __name__ == "__main__":
    {"convert": convert, "predict": predict}[sys.argv[1]](*sys.argv[2:])
