"""Source frames to LQ frames: bicubic to the output size, then padded or cropped to the canvas."""

from __future__ import annotations

import numpy as np
from PIL import Image

from flashvsr_trt.configs.schedule import Canvas


def to_canvas(rgb: np.ndarray, canvas: Canvas) -> np.ndarray:
    """One LQ frame.

    Pillow's own bicubic is the definition (a = -0.5, each pass rounded to 8 bits): the networks were trained on it.

    Args:
        rgb: uint8 [h, w, 3].

    Returns:
        uint8 [canvas.height, canvas.width, 3], contiguous.
    """
    height, width = canvas.resized
    image = Image.fromarray(rgb)
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    resized = np.asarray(image)  # [resized h, resized w, 3]
    top, left = canvas.offset
    cut = resized[top : top + canvas.height, left : left + canvas.width]
    below, right = canvas.height - cut.shape[0], canvas.width - cut.shape[1]
    if below or right:
        return np.pad(cut, ((0, below), (0, right), (0, 0)), mode="edge")
    return np.ascontiguousarray(cut)
