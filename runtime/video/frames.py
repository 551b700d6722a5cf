"""What the video reader says and hands out: plain records, no FFmpeg types in them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from fractions import Fraction
from typing import cast

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8] | NDArray[np.uint16]


@dataclass(frozen=True, slots=True)
class FrameTiming:
    """When and under which name a frame is shown; travels from the reader to the writer unchanged.

    Attributes:
        index: position in the delivered sequence, from 0, without gaps.
        pts: presentation time in units of `time_base`; strictly increasing.
        duration: in units of `time_base`, at least 1.
        time_base: seconds per unit.
        name: file name of the source image where the source is a folder of images or one image, else "".
    """

    index: int
    pts: int
    duration: int
    time_base: Fraction
    name: str = ""

    @property
    def time(self) -> Fraction:
        """Presentation time in seconds, exact."""
        return self.pts * self.time_base


@dataclass(frozen=True, slots=True)
class Frame:
    """One decoded frame: `rgb` uint8 [H, W, 3], C-contiguous, full range, stored (not rotated) orientation."""

    rgb: NDArray[np.uint8]
    timing: FrameTiming


@dataclass(frozen=True, slots=True)
class ColourTags:
    """Colour description by the code points of ITU-T H.273.

    `matrix` and `full_range` are what the decoder used; `matrix_assumed` is True where the file did not say and the
    rule "709 from 720 lines up, else 601" decided. `primaries` and `transfer` are as stored (2: not specified).
    """

    primaries: int = 2
    transfer: int = 2
    matrix: int = 1
    full_range: bool = False
    matrix_assumed: bool = False


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """One further stream of the source. `kind`: audio, subtitle, attachment, cover, video, data or unknown."""

    index: int
    kind: str
    codec: str
    language: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class SourceInfo:
    """What is known about a source before it is read through.

    Attributes:
        path: file or folder, `-` for stdin.
        kind: "video", "images" (a folder) or "image".
        container: FFmpeg's demuxer name, e.g. "mov,mp4,m4a,3gp,3g2,mj2"; "images" and "image" for stills.
        codec: video codec, e.g. "h264".
        width, height: of the frames delivered, i.e. as stored.
        display_matrix: nine 16.16 integers of the display matrix, or None for upright.
        rate: average frame rate, exact; time_base: seconds per pts unit, exact.
        frames: number of frames that will be delivered, or None; `frames_exact` False marks an estimate.
        duration: seconds of video that will be delivered, or None.
        pix_fmt, bit_depth: as stored (FFmpeg name, bits of the deepest component).
        cut: (start, end) in seconds on the source's clock where a part was asked for; end None is the end.
        streams: all other streams; chapters: how many.
        notes: one line for each thing a user should know, e.g. assumed colours.
    """

    path: str
    kind: str
    container: str
    codec: str
    width: int
    height: int
    rate: Fraction
    time_base: Fraction
    pix_fmt: str
    bit_depth: int
    colour: ColourTags
    frames: int | None = None
    frames_exact: bool = False
    duration: Fraction | None = None
    sample_aspect: Fraction | None = None
    display_matrix: tuple[int, ...] | None = None
    cut: tuple[Fraction, Fraction | None] | None = None
    streams: tuple[StreamInfo, ...] = ()
    chapters: int = 0
    notes: tuple[str, ...] = ()

    @property
    def rotation(self) -> int:
        """Counter-clockwise degrees a player turns the frames by (0 for upright), rounded to a whole degree."""
        return rotation_of(self.display_matrix)

    @property
    def display_size(self) -> tuple[int, int]:
        """(width, height) as a player shows it, after rotation."""
        turned = self.rotation % 180 == 90
        return (self.height, self.width) if turned else (self.width, self.height)


@dataclass(slots=True)
class ReadStats:
    """Counts of everything that was not plain decoding, for the report.

    Attributes:
        delivered: frames handed out.
        repeated: of those, frames that could not be decoded and show their neighbour instead.
        concealed: frames the decoder delivered while flagging damage.
        retimed: frames whose time stamp was missing, repeated or ran backwards.
        skipped: leading frames that depend on a key frame before the start of the file.
        missing: frames that the container announces beyond the end of its data (a file cut in the middle).
        grown: bytes by which the file changed its size while it was read.
        complaints: the first few decoder messages.
    """

    delivered: int = 0
    repeated: int = 0
    concealed: int = 0
    retimed: int = 0
    skipped: int = 0
    missing: int = 0
    grown: int = 0
    complaints: list[str] = field(default_factory=list)

    def complain(self, message: str) -> None:
        """Keeps the first 10 messages; a broken file has thousands."""
        if len(self.complaints) < 10:
            self.complaints.append(message)

    @property
    def clean(self) -> bool:
        return not (self.repeated or self.concealed or self.retimed or self.skipped or self.missing or self.grown)


def readable(text: str) -> str:
    """The text with U+FFFD for each surrogate, i.e. each byte that was not UTF-8: encoders refuse surrogates."""
    return re.sub("[\ud800-\udfff]", "\N{REPLACEMENT CHARACTER}", text)


def rotation_of(matrix: tuple[int, ...] | None) -> int:
    """Counter-clockwise degrees in (-180, 180] that the display matrix turns the picture by; mirroring is ignored."""
    if matrix is None:
        return 0
    angle = round(float(np.degrees(np.arctan2(-matrix[1], matrix[0]))))
    # A matrix with negative determinant mirrors the x axis: its first row points the other way.
    if matrix[0] * matrix[4] - matrix[1] * matrix[3] < 0:
        angle = round(float(np.degrees(np.arctan2(matrix[1], -matrix[0]))))
    return 180 if angle == -180 else angle


def upright(pixels: Pixels, matrix: tuple[int, ...] | None) -> Pixels:
    """The picture turned and mirrored as the display matrix says, for outputs that cannot carry it.

    Args:
        pixels: [H, W, 3].
        matrix: nine integers; only quarter turns and mirrorings are applied exactly, others go to the nearest.
    """
    if matrix is None:
        return pixels
    mirrored = matrix[0] * matrix[4] - matrix[1] * matrix[3] < 0
    quarter_turns = round(rotation_of(matrix) / 90) % 4
    turned = np.rot90(pixels[:, ::-1] if mirrored else pixels, quarter_turns)
    return cast(Pixels, np.ascontiguousarray(turned))
