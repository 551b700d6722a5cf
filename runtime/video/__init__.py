"""Video in and out through FFmpeg (PyAV): the only package that imports av.

with open_source("in.mp4") as source:
    plan = plan_output(source.info, "out.mp4", (4 * source.info.width, 4 * source.info.height), OutputOptions())
    with open_writer(plan) as writer:
        for frame in source:
            writer.write(upscaled(frame.rgb), frame.timing)
"""

from flashvsr_trt.runtime.video.cut import Position, parse_position
from flashvsr_trt.runtime.video.frames import (
    ColourTags,
    Frame,
    FrameTiming,
    Pixels,
    ReadStats,
    SourceInfo,
    StreamInfo,
)
from flashvsr_trt.runtime.video.options import OutputOptions
from flashvsr_trt.runtime.video.plan import OutputPlan, default_output, plan_output
from flashvsr_trt.runtime.video.reader import Source, open_source
from flashvsr_trt.runtime.video.writer import Writer, WriteResult, open_writer

__all__ = [
    "ColourTags",
    "Frame",
    "FrameTiming",
    "OutputOptions",
    "OutputPlan",
    "Pixels",
    "Position",
    "ReadStats",
    "Source",
    "SourceInfo",
    "StreamInfo",
    "WriteResult",
    "Writer",
    "default_output",
    "open_source",
    "open_writer",
    "parse_position",
    "plan_output",
]
