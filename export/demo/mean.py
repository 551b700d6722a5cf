"""The mean of two trainings' weights: `python -m flashvsr_trt.export.demo.mean A.safetensors B.safetensors --out MEAN`

Of trainings of which one began with the other's weights (Wortsman et al. 2022, "Model soups").
"""

from __future__ import annotations

import argparse
from pathlib import Path

from torch import Tensor

from flashvsr_trt.export.demo.checkpoint import load_weights, save_weights
from flashvsr_trt.export.demo.networks import Networks


def mean(one: Networks, other: Networks, share: float = 0.5) -> dict[str, dict[str, Tensor]]:
    """(1 - share) of one plus `share` of the other, tensor by tensor; KeyError where they are not the same networks."""
    return {
        name: {key: (1 - share) * tensor.float() + share * other[name][key].float() for key, tensor in state.items()}
        for name, state in one.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("one", type=Path)
    parser.add_argument("other", type=Path)
    parser.add_argument("--share", type=float, default=0.5, help="of the second one")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    save_weights(given.out, mean(load_weights(given.one), load_weights(given.other), given.share))


if __name__ == "__main__":
    main()
