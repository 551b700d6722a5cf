"""Stored pixels to full-range RGB and back with the right matrix and range (swscale does the arithmetic).

Code points are those of ITU-T H.273: matrix 0 RGB, 1 BT.709, 4 FCC, 5 BT.470BG, 6 SMPTE 170M, 7 SMPTE 240M,
9 BT.2020 (non-constant luminance); 2 means "not specified".
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import cast

import numpy as np
from av.video.format import VideoFormat
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from numpy.typing import NDArray

from flashvsr_trt.runtime.video.frames import ColourTags, Pixels

UNSPECIFIED = 2
_RGB, _BT709, _BT470BG, _SMPTE170M = 0, 1, 5, 6
_FULL_RANGE = int(ColorRange.JPEG)
# swscale knows one table for both BT.601 flavours.
_SWS_TABLE = {
    1: Colorspace.ITU709,
    4: Colorspace.FCC,
    5: Colorspace.ITU601,
    6: Colorspace.ITU601,
    7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020,
}
# Without FULL_CHR_H_INT swscale repeats each chroma sample of 4:2:0 instead of interpolating; without FULL_CHR_H_INP
# it drops every second one of an RGB picture on its way to 4:4:4.
_TO_RGB = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
_FROM_RGB = _TO_RGB | Interpolation.FULL_CHR_H_INP
_MANY_PIXELS = 1_000_000  # below it slicing the picture over threads costs more than it saves
_TRANSFER_NAMES = {16: "PQ (HDR10)", 18: "HLG"}
_MATRIX_NAMES = {0: "RGB", 1: "bt709", 4: "fcc", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m", 9: "bt2020nc"}


def matrix_name(matrix: int) -> str:
    return _MATRIX_NAMES.get(matrix, f"matrix {matrix}")


def bit_depth(pix_fmt: str) -> int:
    """Bits of the deepest component; palettes count as 8."""
    pixel_format = VideoFormat(pix_fmt)
    return 8 if pixel_format.has_palette else max(c.bits for c in pixel_format.components)


def is_rgb(pix_fmt: str) -> bool:
    pixel_format = VideoFormat(pix_fmt)
    return pixel_format.is_rgb or pixel_format.has_palette


def read_colours(frame: VideoFrame) -> tuple[ColourTags, list[str]]:
    """The tags a frame is decoded with, and what a user should know about them.

    A file that does not name its matrix is read as BT.709 from 720 lines up, else as BT.601, like players do.
    """
    notes: list[str] = []
    full = int(frame.color_range) == _FULL_RANGE or frame.format.name.startswith("yuvj")
    tags = ColourTags(int(frame.color_primaries), int(frame.color_trc), int(frame.colorspace), full)
    if is_rgb(frame.format.name):
        tags = replace(tags, matrix=_RGB, full_range=True)
    elif tags.matrix not in _SWS_TABLE:
        assumed = _BT709 if frame.height >= 720 else _SMPTE170M
        why = "no colour matrix in the file"
        if tags.matrix not in (UNSPECIFIED, _RGB):
            why = f"colour matrix {tags.matrix} is not supported"
        notes.append(f"{why}: read as {matrix_name(assumed)} ({frame.height} lines)")
        tags = replace(tags, matrix=assumed, matrix_assumed=True)
        if tags.primaries == UNSPECIFIED:
            tags = replace(tags, primaries=_usual_primaries(assumed, frame.height))
    if bit_depth(frame.format.name) > 8:
        notes.append(f"{bit_depth(frame.format.name)}-bit pictures are read as 8 bit, which the networks take")
    if tags.transfer in _TRANSFER_NAMES:
        notes.append(
            f"transfer {_TRANSFER_NAMES[tags.transfer]}: processed as it is coded, the tags are kept; "
            "the networks were trained on SDR pictures, and mastering metadata is not copied"
        )
    if any(component.is_alpha for component in frame.format.components):
        notes.append(f"the alpha channel of {frame.format.name} is dropped")
    return tags, notes


def _usual_primaries(matrix: int, height: int) -> int:
    """What players assume for the source; written out because the larger output would be guessed differently."""
    if matrix == _BT709 or height not in (480, 486, 576):
        return _BT709
    return _BT470BG if height == 576 else _SMPTE170M


def _threads(frame: VideoFrame) -> int:
    return min(4, os.cpu_count() or 1) if frame.width * frame.height >= _MANY_PIXELS else 1


class RgbReader:
    """Turns decoded frames into uint8 RGB. Holds the scaler context, so use one per stream and thread."""

    def __init__(self, tags: ColourTags) -> None:
        self._tags, self._scaler = tags, VideoReformatter()

    def __call__(self, frame: VideoFrame) -> NDArray[np.uint8]:
        """A frame of any pixel format to uint8 [H, W, 3], C-contiguous, full range."""
        if frame.format.name == "rgb24":
            return np.ascontiguousarray(frame.to_ndarray())
        matrix = _SWS_TABLE.get(self._tags.matrix)
        rgb = self._scaler.reformat(
            frame,
            format="rgb24",
            src_colorspace=None if matrix is None else int(matrix),
            src_color_range=_FULL_RANGE if self._tags.full_range else int(ColorRange.MPEG),
            dst_color_range=_FULL_RANGE,
            interpolation=_TO_RGB,
            threads=_threads(frame),
        )
        return np.ascontiguousarray(rgb.to_ndarray())


class RgbWriter:
    """Turns RGB into frames of the encoder's pixel format, tagged with the colours they are coded in."""

    def __init__(self, pix_fmt: str, tags: ColourTags) -> None:
        self._pix_fmt, self._tags, self._scaler = pix_fmt, tags, VideoReformatter()
        self._to_rgb = is_rgb(pix_fmt)

    def __call__(self, pixels: Pixels) -> VideoFrame:
        """uint8 or uint16 [H, W, 3], full range, to one frame; precision within one code value of the exact result."""
        deep = pixels.dtype == np.uint16
        if deep and not self._to_rgb:
            # swscale takes white to be 255 * 256 when it leaves 16-bit RGB for YUV.
            pixels = pixels - (pixels >> 8)
        contiguous = cast(Pixels, np.ascontiguousarray(pixels))
        source = VideoFrame.from_ndarray(contiguous, format="rgb48le" if deep else "rgb24")
        full = self._tags.full_range or self._to_rgb
        matrix = None if self._to_rgb else _SWS_TABLE[self._tags.matrix]
        frame = self._scaler.reformat(
            source,
            format=self._pix_fmt,
            dst_colorspace=None if matrix is None else int(matrix),
            src_color_range=_FULL_RANGE,
            dst_color_range=_FULL_RANGE if full else int(ColorRange.MPEG),
            interpolation=_FROM_RGB,
            threads=_threads(source),
        )
        frame.colorspace = _RGB if self._to_rgb else self._tags.matrix
        frame.color_range = _FULL_RANGE if full else int(ColorRange.MPEG)
        frame.color_primaries, frame.color_trc = self._tags.primaries, self._tags.transfer
        return frame


def output_colours(source: ColourTags, pix_fmt: str) -> ColourTags:
    """The tags an output in `pix_fmt` is coded with: the source's, where that pixel format can have them."""
    if is_rgb(pix_fmt):
        return replace(source, matrix=_RGB, full_range=True)
    if source.matrix == _RGB:
        primaries = _BT709 if source.primaries == UNSPECIFIED else source.primaries
        return replace(source, matrix=_BT709, primaries=primaries, full_range=False)
    return source
