"""TCDecoder of the fused convolutions (plugins_trt.spec), channels last, for ONNX Runtime on CUDA.

The same function as `tc_decoder.TcDecoder` with fewer operations: TGrow and the convolution behind the upsampling are
one, for nothing but the upsampling lies between them, and that one runs on the small picture, a 2x2 convolution for
each of the four positions of an output pixel. 14.3 to 12.2 TFLOP a step at 768x1408.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Taps of a 3x3 convolution, along one axis of the upsampled picture, that fall on the first and on the second of the
# two pixels that an output pixel sees; the even output pixel's are the pixel before and its own, the odd one's its own
# and the next.
_TAPS = (((0,), (1, 2)), ((0, 1), (2,)))


def phase_weights(weight: Tensor) -> Tensor:
    """weight [N, 3, 3, C] behind nearest 2x upsampling to [4, N, 2, 2, C] on the small picture; phases row-major."""
    phases = []
    for rows in _TAPS:
        for columns in _TAPS:
            taps = [weight[:, row][:, :, column].sum(dim=(1, 2)) for row in rows for column in columns]
            phases.append(torch.stack(taps, dim=1).unflatten(1, (2, 2)))  # [N, 2, 2, C]
    return torch.stack(phases)
