"""Tensors of every datatype for tests of the Open Inference Protocol, and their conversion to client inputs."""

import ml_dtypes
import numpy as np

# By datatype: the suffix of the input of `types`, and values that reveal a wrong width or sign.
EVERY_TYPE = {
    "BOOL": ("bool", np.array([True, False, True])),
    "INT8": ("int8", np.array([-128, 0, 127], dtype=np.int8)),
    "INT16": ("int16", np.array([-32768, 1, 32767], dtype=np.int16)),
    "INT32": ("int32", np.array([-(2**31), 1, 2**31 - 1], dtype=np.int32)),
    "INT64": ("int64", np.array([-(2**63), 2**53 + 1, 2**63 - 1], dtype=np.int64)),
    "UINT8": ("uint8", np.array([0, 128, 255], dtype=np.uint8)),
    "UINT16": ("uint16", np.array([0, 256, 65535], dtype=np.uint16)),
    "UINT32": ("uint32", np.array([0, 1, 2**32 - 1], dtype=np.uint32)),
    "UINT64": ("uint64", np.array([0, 2**53 + 1, 2**64 - 1], dtype=np.uint64)),
    "FP16": ("fp16", np.array([-1.5, 0.25, 65504], dtype=np.float16)),
    "BF16": ("bf16", np.array([-1.5, 0.25, 2.0**100], dtype=ml_dtypes.bfloat16)),
    "FP32": ("fp32", np.array([-1.5, 1e-30, 3.4e38], dtype=np.float32)),
    "FP64": ("fp64", np.array([-1.5, 1e-300, 0.1], dtype=np.float64)),
    "BYTES": ("string", np.array(["", "naïve café", "東京 🙂"], dtype=object)),
}


def image(batch=1, side=64):
    return np.random.RandomState(7).standard_normal((batch, 3, side, side)).astype(np.float32)


def rows(count, columns=4, seed=9):
    return np.random.RandomState(seed).standard_normal((count, columns)).astype(np.float32)


def inputs(module, binary=None, **arrays):
    """Returns InferInputs of tritonclient.http or tritonclient.grpc; only the former supports `binary`."""
    from tritonclient.utils import np_to_triton_dtype

    more = {} if binary is None else {"binary_data": binary}
    made = []
    for name, (datatype, array) in typed(arrays, np_to_triton_dtype).items():
        one = module.InferInput(name, list(array.shape), datatype)
        one.set_data_from_numpy(array, **more)
        made.append(one)
    return made


def typed(arrays, name_of):
    """Returns (datatype, array) by name. An array may be given together with its datatype."""
    return {
        name: given if isinstance(given, tuple) else (name_of(given.dtype), given)
        for name, given in arrays.items()
    }


def of_every_type(leave=()):
    return {
        f"in_{name}": (datatype, array)
        for datatype, (name, array) in EVERY_TYPE.items()
        if datatype not in leave
    }


def same(datatype, actual, expected):
    if datatype == "BYTES":
        actual = [x.decode("utf-8") if isinstance(x, bytes) else x for x in np.asarray(actual).ravel()]
        assert actual == list(expected.ravel())
    else:
        actual = np.asarray(actual)
        assert actual.dtype == expected.dtype, f"dtype {actual.dtype}, expected {expected.dtype}"
        np.testing.assert_array_equal(actual, expected)
