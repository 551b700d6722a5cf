"""Drawn training images: text, lines, gratings, noise of several spectra, leaves, checkers. Seeded."""

from __future__ import annotations

import io
import string
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIZE = 768
SUPERSAMPLE = 2  # drawn larger and reduced: edges end up as a camera's would, not stair-cased

Colour = tuple[int, int, int]


def image(rng: np.random.Generator, index: int, fonts: list[bytes]) -> Image.Image:
    """Image number `index`: the kind cycles, everything else is drawn from `rng`. RGB, SIZE x SIZE."""
    kinds: list[Callable[[], Image.Image]] = [
        lambda: _text(rng, fonts),
        lambda: _lines(rng),
        lambda: _leaves(rng),
        lambda: _fractal(rng),
        lambda: _gratings(rng),
        lambda: _text(rng, fonts),
        lambda: _checkers(rng),
        lambda: _leaves(rng),
    ]
    drawn = kinds[index % len(kinds)]()
    return drawn.convert("RGB").resize((SIZE, SIZE), Image.Resampling.LANCZOS)


def _colour(rng: np.random.Generator) -> Colour:
    r, g, b = (int(v) for v in rng.integers(0, 256, 3))
    return r, g, b


def _background(rng: np.random.Generator) -> Image.Image:
    """A smooth gradient of four corner colours."""
    corners = rng.integers(0, 256, (2, 2, 3)).astype(np.uint8)
    side = SIZE * SUPERSAMPLE
    return Image.fromarray(corners).resize((side, side), Image.Resampling.BICUBIC)


def _text(rng: np.random.Generator, fonts: list[bytes]) -> Image.Image:
    canvas = _background(rng)
    draw = ImageDraw.Draw(canvas)
    letters = string.ascii_letters + string.digits + "  .,;:!?()&%"
    y = 0
    while y < canvas.height:
        size = int(rng.integers(10, 60)) * SUPERSAMPLE
        font = _font(rng, fonts, size)
        text = "".join(letters[i] for i in rng.integers(0, len(letters), 120))
        draw.text((int(rng.integers(-40, 40)), y), text, fill=_colour(rng), font=font)
        y += int(size * 1.3)
    return canvas


def _font(rng: np.random.Generator, fonts: list[bytes], size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    if not fonts:
        return ImageFont.load_default(size)
    return ImageFont.truetype(io.BytesIO(fonts[int(rng.integers(len(fonts)))]), size)


def _lines(rng: np.random.Generator) -> Image.Image:
    canvas = _background(rng)
    draw = ImageDraw.Draw(canvas)
    side = canvas.width
    for _ in range(160):
        x, y = rng.uniform(0, side, 2)
        angle, length = rng.uniform(0, np.pi), rng.uniform(0.05, 0.8) * side
        end = (x + np.cos(angle) * length, y + np.sin(angle) * length)
        draw.line((x, y, *end), fill=_colour(rng), width=int(rng.integers(1, 9)) * SUPERSAMPLE)
    for _ in range(60):
        x, y = rng.uniform(0, side, 2)
        r = rng.uniform(4, 80) * SUPERSAMPLE
        outline = int(rng.integers(1, 6)) * SUPERSAMPLE
        draw.ellipse((x - r, y - r, x + r, y + r * rng.uniform(0.3, 1)), outline=_colour(rng), width=outline)
    return canvas


def _leaves(rng: np.random.Generator) -> Image.Image:
    """Ellipses in random poses over each other, sizes by a power law: the statistics of foliage and clutter."""
    canvas = _background(rng)
    draw = ImageDraw.Draw(canvas)
    side = canvas.width
    tint = rng.integers(0, 200, 3)
    for _ in range(2500):
        x, y = rng.uniform(0, side, 2)
        long = SUPERSAMPLE * min(120.0, 5 * float(rng.pareto(1.6) + 1))
        short, angle = long * rng.uniform(0.15, 0.8), rng.uniform(0, 2 * np.pi)
        turn = np.linspace(0, 2 * np.pi, 14)[:-1]
        xs = x + long * np.cos(turn) * np.cos(angle) - short * np.sin(turn) * np.sin(angle)
        ys = y + long * np.cos(turn) * np.sin(angle) + short * np.sin(turn) * np.cos(angle)
        r, g, b = (int(v) for v in np.clip(tint + rng.normal(0, 45, 3), 0, 255))
        draw.polygon([(float(a), float(c)) for a, c in zip(xs, ys, strict=True)], fill=(r, g, b))
    return canvas


def _fractal(rng: np.random.Generator) -> Image.Image:
    """Noise with spectrum 1/f^a per channel, partly shared between the channels."""
    side = SIZE * SUPERSAMPLE
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None, :])
    frequency[0, 0] = 1
    slope = rng.uniform(0.9, 1.7)
    shared = rng.normal(size=(side, side))
    channels = []
    for _ in range(3):
        noise = shared + 0.5 * rng.normal(size=(side, side))
        field = np.fft.irfft2(np.fft.rfft2(noise) / frequency**slope, s=(side, side))
        channels.append((field - field.mean()) / field.std())
    pixels = 128 + rng.uniform(30, 60) * np.stack(channels, axis=-1)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _gratings(rng: np.random.Generator) -> Image.Image:
    """A grid of tiles, each a sine or square grating of its own direction, period and colours."""
    side, tiles = SIZE * SUPERSAMPLE, 4
    pixels = np.zeros((side, side, 3))
    step = side // tiles
    y, x = np.mgrid[:step, :step]
    for row in range(tiles):
        for column in range(tiles):
            angle = rng.uniform(0, np.pi)
            period = SUPERSAMPLE * np.exp(rng.uniform(np.log(4), np.log(40)))
            wave = np.sin(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / period)
            wave = np.tanh(wave * rng.choice([0.7, 6.0]))[..., None] / 2 + 0.5
            tile = wave * rng.integers(0, 256, 3) + (1 - wave) * rng.integers(0, 256, 3)
            pixels[row * step : (row + 1) * step, column * step : (column + 1) * step] = tile
    return Image.fromarray(pixels.astype(np.uint8))


def _checkers(rng: np.random.Generator) -> Image.Image:
    """Two checker boards of different pitch, one turned, mixed."""
    side = SIZE * SUPERSAMPLE
    y, x = np.mgrid[:side, :side].astype(np.float64)
    total = np.zeros((side, side, 3))
    for _ in range(2):
        angle, pitch = rng.uniform(0, np.pi / 2), SUPERSAMPLE * rng.uniform(6, 48)
        u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
        board = ((u // pitch + v // pitch) % 2)[..., None]
        total += board * rng.integers(0, 256, 3) + (1 - board) * rng.integers(0, 256, 3)
    return Image.fromarray((total / 2).astype(np.uint8))
