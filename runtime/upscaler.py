"""The public object: frames in, upscaled frames out, exactly as many, in constant memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from flashvsr_trt.configs import schedule
from flashvsr_trt.configs.contract import BITS, COLOUR_FIXES
from flashvsr_trt.configs.errors import BundleError, UsageError
from flashvsr_trt.configs.manifest import Manifest
from flashvsr_trt.configs.schedule import Parameters
from flashvsr_trt.runtime.backends import open_backend
from flashvsr_trt.runtime.backends.base import Backend
from flashvsr_trt.runtime.bundle import Bundle, open_bundle
from flashvsr_trt.runtime.canvas import to_canvas
from flashvsr_trt.runtime.networks import Networks
from flashvsr_trt.runtime.orders import Interleaved, Order, Overlapped, Phased, Tiled
from flashvsr_trt.runtime.settings import NoiseSource, Settings
from flashvsr_trt.runtime.tiled import TiledNetworks
from flashvsr_trt.runtime.tiles import Tiling

AUTO = "auto"
VARIANTS = {"tiny": "tc_decoder", "long": "tc_decoder", "full": "vae_decoder"}  # and the decoder that each needs

_STEP = "step"  # the name under which a saved state has the index of the next step


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to upscale.

    Args:
        scale: output size is round(scale x input), both sides.
        output: (height, width) in pixels instead of `scale`.
        variant: "long" decodes each step at once; "tiny" runs `segment_steps` DiT steps, then decodes them, with
            only one of the two networks loaded at a time. Same frames. "full" decodes with the Wan VAE.
        phases: "full" in phases like "tiny".
        tiling: cuts the canvas into tiles, which run in phases like "tiny", with a tile's state in memory at a time.
        colour_fix: adain, wavelet or none; "auto" is what the bundle says suits its weights.
        bits: 8 gives uint8 frames, 16 gives uint16.
        fit: "pad" keeps every pixel; "crop" is the reference's centre crop to multiples of 128.
        reference_count: the reference's frame count (8n-3 frames out, at least 21), for parity.
        noise: replaces the seeded generator; (latent frames, rows, columns) -> float16 [f, 16, rows, columns].
    """

    scale: float = 4.0
    output: tuple[int, int] | None = None
    variant: str = "long"
    segment_steps: int = 8
    phases: bool = False
    tiling: Tiling | None = None
    colour_fix: str = AUTO
    bits: int = 8
    fit: str = "pad"
    reference_count: bool = False
    parameters: Parameters = field(default_factory=Parameters)
    noise: NoiseSource | None = None

    def __post_init__(self) -> None:
        for name, allowed in (("variant", VARIANTS), ("colour_fix", (AUTO, *COLOUR_FIXES)), ("bits", BITS)):
            if getattr(self, name) not in allowed:
                raise UsageError(
                    f"{name} is {getattr(self, name)!r}", expected=f"one of {', '.join(map(str, allowed))}"
                )
        if self.segment_steps < 1:
            raise UsageError(f"segment_steps is {self.segment_steps}", expected="at least 1")

    @property
    def phased(self) -> bool:
        """Whether DiT and decoder take turns in memory."""
        return self.variant == "tiny" or self.phases or self.tiling is not None


def settled(options: Options, manifest: Manifest) -> Options:
    """`options` with what they leave to the bundle."""
    return replace(options, colour_fix=manifest.colour_fix) if options.colour_fix == AUTO else options


def check_options(manifest: Manifest, options: Options) -> None:
    """Raises UsageError or BundleError where the bundle cannot do what `options` ask for."""
    check_parameters(manifest, options.parameters)
    decoder = VARIANTS[options.variant]
    if decoder not in manifest.decoders:
        able = [name for name, needed in VARIANTS.items() if needed in manifest.decoders]
        raise BundleError(
            f"variant {options.variant} was asked of a bundle without {decoder}",
            expected=f"variant {' or '.join(able)}" if able else "a bundle with a decoder",
            todo="export a bundle with the Wan VAE: --vae PATH" if decoder == "vae_decoder" else "export it again",
        )


def check_parameters(manifest: Manifest, parameters: Parameters) -> None:
    """Raises UsageError where `parameters` ask for something else than what is baked into the bundle."""
    baked = manifest.local_range
    if parameters.local_range != baked:
        raise UsageError(
            f"local_range {parameters.local_range} was asked of a bundle made with {baked}",
            expected=f"{baked}: it is baked into a bundle",
            todo=f"leave it unset, or export with --local-range {parameters.local_range}",
        )


@dataclass
class _Hook:
    """What the networks call, without a reference to whom it belongs."""

    call: Callable[[], None] = lambda: None

    def __call__(self) -> None:
        self.call()


class Upscaler:
    """Upscales one stream of frames of one size. Not thread-safe, but `prepare` may run on other threads.

    Args:
        bundle: an open bundle.
        backend: what runs it.
        height, width: size of the frames that will be pushed.
        options: how.

    Raises:
        UsageError: sizes or options that do not fit together.
        BundleError: the bundle was made with another local_range, or is damaged.
    """

    def __init__(self, bundle: Bundle, backend: Backend, height: int, width: int, options: Options) -> None:
        check_options(bundle.manifest, options)
        self._source = (height, width)
        self._options = options = settled(options, bundle.manifest)
        output = options.output or schedule.scaled(height, width, options.scale)
        self.canvas = schedule.canvas(height, width, output=output, fit=options.fit)
        self._hook = _Hook()
        overlap = isinstance(backend, Backend) and backend.asynchronous and options.tiling is None
        self._host_array = backend.host_array if overlap else np.empty
        self._order = self._ordered(bundle, backend, overlap)
        self._begin()

    def _ordered(self, bundle: Bundle, backend: Backend, overlap: bool) -> Order:
        options = self._options
        settings = Settings(
            canvas=self.canvas,
            parameters=options.parameters,
            decoder=VARIANTS[options.variant],
            colour_fix=options.colour_fix,
            bits=options.bits,
            noise=options.noise,
        )
        if options.tiling is not None:
            tiled = TiledNetworks(bundle, backend, settings, options.tiling, self._hook)
            return Tiled(tiled, options.segment_steps)
        networks = Networks(bundle, backend, settings)
        if options.phased:
            return Phased(networks, options.segment_steps)
        return Overlapped(networks) if overlap else Interleaved(networks)

    @property
    def on_work(self) -> Callable[[], None]:
        """Called before each piece of work of a long step (a tile); may raise to stop. To be set."""
        return self._hook.call

    @on_work.setter
    def on_work(self, call: Callable[[], None]) -> None:
        self._hook.call = call

    def prepare(self, rgb: np.ndarray) -> np.ndarray:
        """One source frame to its LQ frame.

        Args:
            rgb: uint8 [height, width, 3].

        Returns:
            uint8 [canvas height, canvas width, 3].
        """
        if rgb.dtype != np.uint8 or rgb.shape != (*self._source, 3):
            raise UsageError(
                f"a frame is {rgb.dtype} {list(rgb.shape)}", expected=f"uint8 [{self._source[0]}, {self._source[1]}, 3]"
            )
        return to_canvas(rgb, self.canvas)

    def push(self, lq: np.ndarray) -> list[np.ndarray]:
        """Takes the next LQ frame (see `prepare`); gives the output frames that are ready now, often none."""
        return list(self.feed(lq))

    def flush(self) -> list[np.ndarray]:
        """The stream has ended: gives the frames that are still owed, and is ready for a new stream."""
        return list(self.drain())

    def feed(self, lq: np.ndarray) -> Iterator[np.ndarray]:
        """As `push`, one frame at a time as the decoder gives them; take all of them before the next call."""
        self._pushed += 1
        self._last = lq
        for frame in self._advance(lq):
            self._given += 1
            yield frame

    def drain(self) -> Iterator[np.ndarray]:
        """As `flush`, one frame at a time; take all of them before the next call."""
        if self._pushed:
            padded, total = self._totals()
            for frame in self._owed(padded - self._pushed):
                if self._given < total:
                    self._given += 1
                    yield frame
        self._begin()

    @property
    def settled(self) -> int:
        """Frames of this stream that have left once `settle` has given its own."""
        return schedule.step_output(self._step - 1)[1] if self._step else 0

    def settle(self) -> Iterator[np.ndarray]:
        """Gives the frames of all steps that have begun, without waiting for the rest of a phase; take all of them."""
        for frame in self._order.run(self._condition):
            self._given += 1
            yield frame

    def save_state(self) -> dict[str, np.ndarray]:
        """A host copy of all that the frames after `settled` depend on, by name; only after `settle`.

        Empty before the first step: the stream may as well begin again.
        """
        return {**self._order.save_state(), _STEP: np.asarray(self._step)} if self._step else {}

    def load_state(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Goes on with the stream that `save_state` left: its frame number `settled` is the next to push.

        The result is the same, bit for bit, on the same back end.
        """
        self._begin()
        if not arrays:
            return
        self._order.load_state({name: array for name, array in arrays.items() if name != _STEP})
        self._step = int(arrays[_STEP])
        self._pushed = self._given = self.settled
        self._seen = schedule.LOOK_AHEAD

    def _owed(self, missing: int) -> Iterator[np.ndarray]:
        for _ in range(missing):
            yield from self._advance(self._last)
        yield from self._order.run(self._condition)

    def _totals(self) -> tuple[int, int]:
        """LQ frames after padding, and frames that leave, for what was pushed."""
        if self._options.reference_count:
            padded = schedule.reference_frames(self._pushed)
            return padded, padded - schedule.LOOK_AHEAD
        return schedule.padded_frames(self._pushed), self._pushed

    def _begin(self) -> None:
        self._order.reset()
        self._pushed = self._given = self._step = 0
        self._waiting: list[np.ndarray] = []  # LQ frames that the next step reads
        self._conditions: deque[np.ndarray] = deque()  # LQ frames whose output is still owed
        self._seen = 0  # of the frames that come next, how many the networks have seen before their state was saved

    def _advance(self, lq: np.ndarray) -> Iterator[np.ndarray]:
        self._conditions.append(lq)
        if self._seen:
            self._seen -= 1
            return
        self._waiting.append(lq)
        begin, end = schedule.step_input(self._step)
        if len(self._waiting) < end - begin:
            return
        taken = self._stacked(self._waiting)
        self._waiting.clear()
        self._order.take(self._step, taken)
        self._step += 1
        if self._order.full:
            yield from self._order.ready(self._condition)

    def _condition(self, step: int) -> np.ndarray:
        begin, end = schedule.step_output(step)
        return self._stacked([self._conditions.popleft() for _ in range(end - begin)])

    def _stacked(self, frames: list[np.ndarray]) -> np.ndarray:
        """Frames as one array, in memory that the device copies from."""
        return np.stack(frames, out=self._host_array((len(frames), *frames[0].shape), "uint8"))


def upscale(
    frames: Iterable[np.ndarray],
    *,
    bundle: Path | str | None = None,
    backend: Backend | None = None,
    options: Options | None = None,
) -> Iterator[np.ndarray]:
    """Upscales frames as they come.

    Args:
        frames: uint8 [height, width, 3] RGB, all of one size.
        bundle: a bundle folder; None takes the packaged one.
        backend: None takes the best one present.
        options: None takes the defaults, with the bundle's local_range.

    Yields:
        As many frames as came in, uint8 (or uint16) [round(scale x height), round(scale x width), 3].
    """
    opened = open_bundle(bundle)
    chosen = options or Options(parameters=Parameters(local_range=opened.manifest.local_range))
    upscaler: Upscaler | None = None
    for rgb in frames:
        if upscaler is None:
            upscaler = Upscaler(opened, backend or open_backend(), rgb.shape[0], rgb.shape[1], chosen)
        yield from upscaler.push(upscaler.prepare(rgb))
    if upscaler is not None:
        yield from upscaler.flush()
