"""Measures a bundle, by default the one in the package, as the product runs it on a CPU, against bicubic x4.

`python tests/data/demo/measure.py --videos FOLDER` after `python -m flashvsr_trt.export.demo.images` made the images.
"""

import numpy as np

from flashvsr_trt.export.demo.evaluate import arguments, evaluate
from flashvsr_trt.runtime import Options, open_backend, upscale
from flashvsr_trt.runtime.upscaler import AUTO


def main() -> None:
    args = arguments(__doc__)
    options = Options(colour_fix=args.fix or AUTO)

    def run(low: np.ndarray) -> np.ndarray:
        return np.stack(list(upscale(low, bundle=args.model, backend=open_backend("cpu"), options=options)))

    evaluate(run, args)


if __name__ == "__main__":
    main()
