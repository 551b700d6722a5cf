"""Wan 2.1 VAE decoder as a step with explicit state: one latent to four frames, the first one to one frame.

Source: the Wan 2.1 video VAE (Wan2.1_VAE.pth). All convolutions over time are causal: each keeps the last two
frames of its own input, zeros at the start of the one stream over all steps.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._higher_order_ops.scan import scan

from flashvsr_trt.configs.contract import LATENT_CHANNELS
from flashvsr_trt.export.layouts import VAE_CONTEXT, VAE_STAGE_BLOCKS, State, VaeSizes
from flashvsr_trt.export.norms import ChannelNorm
from flashvsr_trt.export.trainable import Trainable, assigned

# fmt: off
LATENT_MEAN = (-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
               0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921)
LATENT_STD = (2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
              3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160)
# fmt: on


class Caches:
    """The causal convolutions' memories of one call, taken and left in the order of the data."""

    def __init__(self, old: tuple[Tensor, ...]) -> None:
        self.old, self.new = old, list[Tensor]()

    @property
    def remembered(self) -> bool:
        """False for the first latent of a stream, whose past is zeros."""
        return bool(self.old)

    def extend(self, x: Tensor) -> Tensor:
        """[T, C, h, w] to [2+T, C, h, w], the remembered frames in front; as it is where there are none."""
        if self.remembered:
            x = torch.cat([self.old[len(self.new)], x])
            self.new.append(x[-VAE_CONTEXT:])
        else:
            self.new.append(torch.cat([torch.zeros_like(x), x]))
        return x

    def reserve(self, x: Tensor) -> None:
        """The memory, zeros, of a convolution that the first latent passes by."""
        self.new.append(torch.cat([torch.zeros_like(x)] * VAE_CONTEXT))


class CausalConv(nn.Module):
    """Kernel 3 in time, over [T, C, h, w], zero padding in space.

    The kernel's three taps in time are three convolutions over frames, and the first latent, whose past is
    zeros, needs the last tap alone. Against one convolution over three frames' channels: half the time and
    half the memory in ONNX Runtime on a CPU, where a Conv3d also takes 1.3 times as long.
    """

    def __init__(self, fan_in: int, fan_out: int, *, side: int) -> None:
        super().__init__()
        self.taps = nn.ParameterList(torch.empty(fan_out, fan_in, side, side) for _ in range(VAE_CONTEXT + 1))
        self.bias = nn.Parameter(torch.empty(fan_out))
        self.padding = side // 2

    def forward(self, x: Tensor, caches: Caches) -> Tensor:
        frames = x.shape[0]
        past = VAE_CONTEXT if caches.remembered else 0  # frames in front of x
        x = caches.extend(x)
        y = F.conv2d(x[past:], self.taps[VAE_CONTEXT], self.bias, padding=self.padding)
        for tap in range(past):
            y = y + F.conv2d(x[tap : tap + frames], self.taps[tap], padding=self.padding)
        return y


def _causal(fan_in: int, fan_out: int) -> CausalConv:
    return CausalConv(fan_in, fan_out, side=3)


class ResidualBlock(nn.Module):
    def __init__(self, fan_in: int, fan_out: int) -> None:
        super().__init__()
        self.residual = nn.ModuleDict(
            {
                "0": ChannelNorm(fan_in),
                "2": _causal(fan_in, fan_out),
                "3": ChannelNorm(fan_out),
                "6": _causal(fan_out, fan_out),
            }
        )
        self.shortcut = nn.Conv2d(fan_in, fan_out, 1) if fan_in != fan_out else nn.Identity()

    def forward(self, x: Tensor, caches: Caches) -> Tensor:
        y = F.silu(self.residual["0"](x)).to(x.dtype)
        y = F.silu(self.residual["3"](self.residual["2"](y, caches))).to(x.dtype)
        y = self.residual["6"](y, caches)
        return self.shortcut(x) + y


class FrameAttention(nn.Module):
    """Single-head attention over the cells of one frame, with its shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.to_qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, caches: Caches) -> Tensor:
        """x [1, C, h, w]: a latent has not yet become several frames here."""
        channels = x.shape[1]
        q, k, v = self.to_qkv(self.norm(x).to(x.dtype)).squeeze(0).split(channels)
        q = (q * channels**-0.5).permute(1, 2, 0)  # [h, w, C]
        k, v = k.reshape(channels, -1), v.reshape(channels, -1).transpose(0, 1)  # [C, h w], [h w, C]
        y = rowwise_attention(q, k, v)
        return x + self.proj(y.permute(2, 0, 1).unsqueeze(0))


def rowwise_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k) v of q [h, w, C], k [C, n], v [n, C], one row of q at a time: [h, w, C].

    All rows at once would hold h w n scores: 60 GB for a picture of 2048x3840.
    """

    def one(row: Tensor) -> Tensor:
        scores = torch.matmul(row, k).float().softmax(dim=-1)
        return torch.matmul(scores.to(v.dtype), v)

    if not torch.compiler.is_exporting():  # scan compiles what it runs
        return torch.stack([one(row) for row in q])
    k, v = k.clone(), v.clone()  # parts of one tensor, and scan refuses inputs that share memory
    nothing = torch.zeros(1, dtype=q.dtype, device=q.device)  # scan wants a carried value
    return scan(lambda carry, row: (carry.clone(), one(row)), nothing, q)[1]


class Upsample(nn.Module):
    """Nearest 2x in space, halving the channels; `in_time` also doubles the frames, from the second latent on."""

    def __init__(self, channels: int, *, in_time: bool) -> None:
        super().__init__()
        if in_time:
            self.time_conv = CausalConv(channels, 2 * channels, side=1)
        self.resample = nn.ModuleDict({"1": nn.Conv2d(channels, channels // 2, 3, padding=1)})
        self.in_time = in_time

    def forward(self, x: Tensor, caches: Caches) -> Tensor:
        if self.in_time and not caches.remembered:
            caches.reserve(x)
        elif self.in_time:
            frames, channels, height, width = x.shape
            x = self.time_conv(x, caches).reshape(2 * frames, channels, height, width)  # (2 c) to frames
        return self.resample["1"](F.interpolate(x, scale_factor=2, mode="nearest"))


def prepare(official: State, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """The tensors of `VaeDecoder` from the checkpoint's decoder and conv2."""
    out = {}
    for name in VaeSizes.of(official).shapes():
        tensor = official[name]
        if name.endswith("gamma"):
            out[name] = tensor.reshape(-1).float()
        elif name == "conv2.weight" or name.endswith("shortcut.weight"):
            out[name] = tensor.squeeze(2).to(dtype)  # [O, C, 1, 1]: no extent in time
        elif tensor.dim() == 5:
            stem = name.removesuffix("weight")
            out |= {f"{stem}taps.{i}": tap.to(dtype) for i, tap in enumerate(tensor.unbind(2))}
        else:
            out[name] = tensor.to(dtype)
    return out


class Layers(nn.Module):
    """The tree `decoder` of the checkpoint."""

    def __init__(self, sizes: VaeSizes) -> None:
        super().__init__()
        first, last = sizes.channels[0], sizes.channels[3]
        self.conv1 = _causal(LATENT_CHANNELS, first)
        self.middle = nn.ModuleList([ResidualBlock(first, first), FrameAttention(first), ResidualBlock(first, first)])
        self.upsamples = nn.ModuleList()
        blocks = iter(list(sizes.blocks().values())[2:])
        for stage, channels in enumerate(sizes.channels):
            self.upsamples.extend(ResidualBlock(*next(blocks)) for _ in range(VAE_STAGE_BLOCKS))
            if stage < 3:
                self.upsamples.append(Upsample(channels, in_time=stage < 2))
        self.head = nn.ModuleDict({"0": ChannelNorm(last), "2": _causal(last, 3)})

    def forward(self, x: Tensor, caches: Caches) -> Tensor:
        x = self.conv1(x, caches)
        for layer in [*self.middle, *self.upsamples]:
            x = layer(x, caches)
        return self.head["2"](F.silu(self.head["0"](x)).to(x.dtype), caches)


class VaeDecoder(nn.Module):
    """One call: a latent [1, 16, H/8, W/8] and the caches to frames [4, 3, H, W] and the new caches.

    Without caches it is the first latent of a stream and gives one frame. Each cache is [2, C, h, w].
    """

    def __init__(self, sizes: VaeSizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.conv2 = nn.Conv2d(LATENT_CHANNELS, LATENT_CHANNELS, 1)
        self.decoder = Layers(sizes)

    @staticmethod
    def of(official: State, *, dtype: torch.dtype = torch.float32) -> VaeDecoder:
        """The exportable module with a checkpoint's weights."""
        with torch.device("meta"):
            module = VaeDecoder(VaeSizes.of(official))
        return assigned(module, prepare(official, dtype))

    def cache_spec(self) -> tuple[tuple[int, int, int], ...]:
        """(channels, frames, pixels per cell) of each cache, as `contract.Sizes.vae_caches`."""
        return self.sizes.caches()

    def forward(self, latent: Tensor, *caches: Tensor) -> tuple[Tensor, ...]:
        """Frames are in the range of [-1, 1] but not clamped."""
        memory = Caches(caches)
        mean, std = (
            torch.tensor(values, device=latent.device).reshape(1, LATENT_CHANNELS, 1, 1)
            for values in (LATENT_MEAN, LATENT_STD)
        )
        x = self.conv2((latent.float() * std + mean).to(latent.dtype))
        return self.decoder(x, memory), *memory.new


def trainable(official: State) -> Trainable:
    """`VaeDecoder` with the checkpoint's tensors as fp32 parameters."""
    return Trainable(official, VaeDecoder.of(official), prepare)
