"""The networks' float types on the host, where numpy has no bfloat16: there it is the uint16 of its bits."""

from __future__ import annotations

import numpy as np


def to_float32(array: np.ndarray, dtype: str) -> np.ndarray:
    """Downloaded floats of type `dtype` as float32."""
    if dtype == "bfloat16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32, copy=False)


def from_float32(array: np.ndarray, dtype: str) -> np.ndarray:
    """float16 or float32 to what is uploaded as `dtype`, rounded to nearest even."""
    if dtype == "float16":
        return array.astype(np.float16, copy=False)
    array = array.astype(np.float32, copy=False)
    if dtype == "float32":
        return array
    bits = np.ascontiguousarray(array).view(np.uint32)
    return ((bits + (np.uint32(0x7FFF) + ((bits >> 16) & 1))) >> 16).astype(np.uint16)  # NaN does not occur
