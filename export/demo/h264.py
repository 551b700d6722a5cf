"""Clips through libx264, as most videos come."""

from __future__ import annotations

import io

import av
import numpy as np


def h264(frames: np.ndarray, crf: int) -> np.ndarray:
    """uint8 [T, h, w, 3] through libx264 in 4:2:0 and back; h and w even."""
    data = io.BytesIO()
    with av.open(data, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": str(crf), "preset": "medium", "threads": "1"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    data.seek(0)
    with av.open(data, "r") as coded:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in coded.decode(video=0)])
