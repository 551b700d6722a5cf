"""How the output is encoded: what was asked for, checked against what the encoder can do."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

from av.codec import Codec
from av.codec.codec import UnknownCodecError, find_best_pix_fmt_of_list
from av.codec.context import CodecOption
from av.video.format import VideoFormat

from flashvsr_trt.configs.errors import UsageError
from flashvsr_trt.runtime.video.colour import bit_depth, is_rgb
from flashvsr_trt.runtime.video.frames import SourceInfo

DEFAULT_CRF = 18


@dataclass(frozen=True)
class OutputOptions:
    """The output flags; None and empty mean "as the source".

    Attributes:
        codec: FFmpeg encoder name, e.g. "libx265".
        crf, preset, pix_fmt: encoder settings.
        lossless: the RGB pictures come back bit for bit.
        container: file suffix without the dot, e.g. "mkv"; for outputs whose name is made here.
        encoder: further encoder options as (name, value).
        audio, subtitles: whether those streams are copied.
        png: write a folder of PNG files.
        overwrite: replace an existing output.
        may_switch: the output's name was not given by the user, so a container that cannot hold a stream may be
            replaced by .mkv (with a warning).
    """

    codec: str | None = None
    crf: float | None = None
    preset: str | None = None
    pix_fmt: str | None = None
    lossless: bool = False
    container: str | None = None
    encoder: tuple[tuple[str, str], ...] = ()
    audio: bool = True
    subtitles: bool = True
    png: bool = False
    overwrite: bool = False
    may_switch: bool = False


@dataclass(frozen=True)
class Container:
    """An output container: FFmpeg's muxer, default encoders (8 bit, deeper, lossless) and what it can carry."""

    muxer: str
    codec: str
    deep_codec: str
    lossless_codec: str
    rotation: bool = False
    variable_rate: bool = True
    hevc_tag: str = ""


# H.264 for 8 bit: everything plays it. HEVC for more: 10-bit H.264 has no hardware decoders, HEVC Main 10 does.
_MP4 = Container("mp4", "libx264", "libx265", "libx264rgb", rotation=True, hevc_tag="hvc1")
_MOV = Container("mov", "libx264", "libx265", "libx264rgb", rotation=True, hevc_tag="hvc1")
_MPEGTS = Container("mpegts", "libx264", "libx265", "libx264rgb")
_MPEG = Container("mpeg", "mpeg2video", "mpeg2video", "")
CONTAINERS = {
    ".mp4": _MP4,
    ".m4v": _MP4,
    ".mov": _MOV,
    ".mkv": Container("matroska", "libx264", "libx265", "ffv1", rotation=True),
    ".webm": Container("webm", "libvpx-vp9", "libsvtav1", "libvpx-vp9", rotation=True),
    ".avi": Container("avi", "libx264", "libx264", "ffv1", variable_rate=False),
    ".ts": _MPEGTS,
    ".mts": _MPEGTS,
    ".m2ts": _MPEGTS,
    ".flv": Container("flv", "libx264", "libx264", "libx264rgb"),
    ".3gp": Container("3gp", "libx264", "libx264", ""),
    ".mpg": _MPEG,
    ".mpeg": _MPEG,
    ".y4m": Container("yuv4mpegpipe", "wrapped_avframe", "wrapped_avframe", "", variable_rate=False),
}

_CRF_LIMIT = {"libx264": 51, "libx264rgb": 51, "libx265": 51}  # FFmpeg's option table says "no limit"
_LOSSLESS: dict[str, dict[str, str]] = {
    "ffv1": {},
    "png": {},
    "libx264rgb": {"qp": "0"},
    "libx265": {"x265-params": "lossless=1"},
    "libvpx-vp9": {"lossless": "1"},
}
# libvpx's defaults use one thread and spend minutes per second of 4K.
_FASTER = {"libvpx-vp9": {"row-mt": "1", "cpu-used": "4"}}
# Encoders of 4:2:0 pictures that take even sizes only; the others code the odd line and mark it.
_EVEN_ONLY = ("libx264", "libx265", "libsvtav1", "_nvenc", "_qsv", "_amf")
# Encoders without CRF whose default is a fixed, far too low bit rate.
QSCALE_CODECS = {"mpeg1video", "mpeg2video", "mpeg4", "mjpeg", "msmpeg4"}
# Their syntax counts time in frames.
FIXED_RATE_CODECS = {"mpeg1video", "mpeg2video", "mpeg4"}
_Y4M_FORMATS = ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv422p10le", "yuv444p10le"]


@dataclass(frozen=True)
class EncoderSettings:
    """One encoder, fully decided. `lines` say in words what was chosen and why; `warnings` what is lost."""

    codec: str
    pix_fmt: str
    time_base: Fraction
    options: dict[str, str] = field(default_factory=dict)
    tag: str = ""
    lines: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def choose_encoder(
    info: SourceInfo, size: tuple[int, int], container: Container, options: OutputOptions
) -> EncoderSettings:
    """The encoder for `size` (width, height) pictures in `container`.

    Raises:
        UsageError: an unknown encoder, an option it does not know, a value out of its range.
    """
    deep = info.bit_depth > 8
    usual = container.lossless_codec if options.lossless else container.deep_codec if deep else container.codec
    name = options.codec or usual
    if not name:
        raise UsageError(f"{container.muxer} has no lossless encoder here", todo="write .mkv, or drop --lossless")
    codec = _encoder(name)
    pix_fmt, lines, warnings = _choose_pix_fmt(info, size, codec, options)
    by_frames = codec.name in FIXED_RATE_CODECS or not container.variable_rate
    return EncoderSettings(
        codec=codec.name,
        pix_fmt=pix_fmt,
        time_base=1 / info.rate if by_frames else info.time_base,
        options=_encoder_options(codec, container, options),
        tag=container.hevc_tag if codec.canonical_name == "hevc" else "",
        lines=tuple(lines),
        warnings=tuple(warnings),
    )


def _encoder(name: str) -> Codec:
    try:
        codec = Codec(name, "w")
    except UnknownCodecError:
        raise UsageError(
            f"--codec {name}: FFmpeg has no such encoder here",
            expected="an encoder such as libx264, libx265, libvpx-vp9, libsvtav1, prores_ks or ffv1",
            todo="`flashvsr-trt doctor` lists them",
        ) from None
    if codec.type != "video":
        raise UsageError(f"--codec {name} encodes {codec.type}, not video", expected="a video encoder")
    return codec


def _encoder_options(codec: Codec, container: Container, options: OutputOptions) -> dict[str, str]:
    known = {o.name: o for o in _supported(codec)}
    chosen: dict[str, str] = {}
    if options.lossless:
        chosen |= _lossless_options(codec, options)
    elif "crf" in known or options.crf is not None:
        chosen |= _crf_options(codec, known, options.crf)
    if options.preset is not None:
        if "preset" not in known:
            raise UsageError(f"--preset {options.preset}: {codec.name} has no presets", todo="drop --preset")
        chosen["preset"] = options.preset
    chosen |= {name: value for name, value in _FASTER.get(codec.name, {}).items() if name in known}
    if container.muxer == "avi":
        chosen |= {"bf": "0"} if "bf" in known else {}  # AVI stores no presentation times to reorder by
    for name, value in options.encoder:
        if name not in known:
            raise UsageError(
                f"-e {name}={value}: {codec.name} knows no option {name!r}",
                expected="one of its own: "
                + ", ".join(sorted(o.name for o in codec.create().supported_options.private)),
            )
        chosen[name] = f"{chosen[name]}:{value}" if name == "x265-params" and name in chosen else value
    if codec.name == "libx265":
        chosen["x265-params"] = ":".join(filter(None, ["log-level=error", chosen.get("x265-params", "")]))
    return chosen


def _supported(codec: Codec) -> list[CodecOption]:
    supported = codec.create().supported_options
    return [*supported.generic, *supported.private]


def _lossless_options(codec: Codec, options: OutputOptions) -> dict[str, str]:
    if options.crf is not None:
        raise UsageError(f"--crf {options.crf:g} and --lossless exclude each other", todo="drop one of them")
    if codec.name not in _LOSSLESS:
        raise UsageError(
            f"--lossless: {codec.name} cannot keep RGB pictures bit for bit",
            expected="one of " + ", ".join(_LOSSLESS),
        )
    return _LOSSLESS[codec.name]


def _crf_options(codec: Codec, known: dict[str, CodecOption], asked: float | None) -> dict[str, str]:
    crf = DEFAULT_CRF if asked is None else asked
    if codec.name.endswith("_nvenc") and "cq" in known:
        return {"rc": "vbr", "cq": f"{crf:g}"}
    if "crf" not in known:
        raise UsageError(f"--crf {crf:g}: {codec.name} has no CRF", todo="set its own option with -e name=value")
    limit = min(known["crf"].max, _CRF_LIMIT.get(codec.name, known["crf"].max))
    if not 0 <= crf <= limit:
        raise UsageError(f"--crf {crf:g} is out of range for {codec.name}", expected=f"0 (best) to {limit:g}")
    return {"crf": f"{crf:g}"}


def _choose_pix_fmt(
    info: SourceInfo, size: tuple[int, int], codec: Codec, options: OutputOptions
) -> tuple[str, list[str], list[str]]:
    """(pixel format, lines, warnings)."""
    known = [f.name for f in codec.video_formats or []] or _Y4M_FORMATS
    if options.pix_fmt is not None:
        return _asked_pix_fmt(options, codec, known, size), [], []
    if options.lossless:
        order = ["gbrp16le", "gbrp12le", "gbrp10le"] if info.bit_depth > 8 else ["gbrp", "bgr0", "rgb24"]
        found = next((name for name in order if name in known), None)
        if found is None:
            raise UsageError(
                f"--lossless: {codec.name} has no RGB format of {info.bit_depth} bit or more",
                expected="ffv1 or libx265 for deep pictures",
                todo="write .mkv, or give --pix-fmt",
            )
        return found, [], []
    lines: list[str] = []
    warnings: list[str] = []
    layout = _layout(info)
    if _needs_even(codec.name, f"yuv{layout}p", size):
        lines.append(
            f"{size[0]}x{size[1]} is odd and {codec.name} codes {layout} in even sizes only: "
            "444, so that no pixel is lost"
        )
        layout = "444"
    depth = "" if info.bit_depth <= 8 else "10le" if info.bit_depth <= 10 else "12le"
    chosen = _nearest(f"yuv{layout}p{depth}", known)
    if chosen is None or _needs_even(codec.name, chosen, size):
        raise UsageError(
            f"{codec.name} cannot code {size[0]}x{size[1]} pictures without losing a line",
            todo="take libx264, libx265 or libvpx-vp9, or an even size",
        )
    if bit_depth(chosen) < info.bit_depth:
        warnings.append(f"{codec.name} takes {bit_depth(chosen)} bit here: the source has {info.bit_depth}")
    return chosen, lines, warnings


def _asked_pix_fmt(options: OutputOptions, codec: Codec, known: list[str], size: tuple[int, int]) -> str:
    assert options.pix_fmt is not None
    if options.pix_fmt not in known:
        raise UsageError(
            f"--pix-fmt {options.pix_fmt}: {codec.name} does not take it",
            expected="one of " + ", ".join(known),
        )
    if options.lossless and not is_rgb(options.pix_fmt):
        raise UsageError(
            f"--pix-fmt {options.pix_fmt} rounds the colours, so it is not lossless",
            expected="an RGB format such as gbrp, bgr0 or rgb24",
        )
    if _needs_even(codec.name, options.pix_fmt, size):
        raise UsageError(
            f"--pix-fmt {options.pix_fmt}: {codec.name} takes even sizes only, the output is {size[0]}x{size[1]}",
            todo="drop --pix-fmt (4:4:4 is chosen then), or take another scale",
        )
    return options.pix_fmt


def _layout(info: SourceInfo) -> str:
    """Chroma layout of the source: "420", "422" or "444"; 4:2:0 for images, which play everywhere that way."""
    if is_rgb(info.pix_fmt):
        return "444" if info.kind == "video" else "420"
    pixel_format = VideoFormat(info.pix_fmt, 16, 16)
    if len(pixel_format.components) < 3:
        return "420"
    wide, high = pixel_format.chroma_width(16), pixel_format.chroma_height(16)
    return "420" if high < 16 else "422" if wide < 16 else "444"


def _needs_even(codec: str, pix_fmt: str, size: tuple[int, int]) -> bool:
    if not any(codec == name or codec.endswith(name) for name in _EVEN_ONLY):
        return False
    pixel_format = VideoFormat(pix_fmt, 16, 16)
    if is_rgb(pix_fmt) or len(pixel_format.components) < 3:
        return False
    halved = (pixel_format.chroma_width(16) < 16, pixel_format.chroma_height(16) < 16)
    return bool((halved[0] and size[0] % 2) or (halved[1] and size[1] % 2))


def _nearest(wanted: str, known: list[str]) -> str | None:
    """`wanted`, else the three-component format of `known` that loses least; None if there is none."""
    if wanted in known:
        return wanted
    usable = []
    for name in known:
        pixel_format = VideoFormat(name)
        plain = len(pixel_format.components) == 3 and not name.startswith("yuvj") and not is_rgb(name)
        if plain or not wanted.startswith("yuv"):
            usable.append(name)
    usable = usable or [name for name in known if is_rgb(name)]
    best, _ = find_best_pix_fmt_of_list(usable, wanted) if usable else (None, 0)
    return best.name if best else None
