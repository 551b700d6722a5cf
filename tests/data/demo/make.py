"""Made the files beside it. Again, after a change of the shipped bundle: `python tests/data/demo/make.py`

roman-colosseum.webp, lossless: the middle 432x280 pixels of a photograph that the demo model never saw
(budgie-backgrounds 3.0, roman-colosseum.jpg, CC0 1.0), reduced to 1280x720 before; made from the pack of
training images where build/demo/images.zip is there.
clip.npz: sums over blocks of 8x8 pixels of some frames that the shipped bundle makes of tests/data/clip.mp4.
"""

import io
import sys
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).parent
PACK = HERE.parents[2] / "build" / "demo" / "images.zip"
CROP = (424, 220, 424 + 432, 220 + 280)  # of 1280x720


def crop() -> None:
    with zipfile.ZipFile(PACK) as packed:
        photo = Image.open(io.BytesIO(packed.read("test/budgie/roman-colosseum.webp"))).convert("RGB")
    photo.reduce(2).crop(CROP).save(HERE / "roman-colosseum.webp", lossless=True, quality=100, method=6)


def reference() -> None:
    sys.path.insert(0, str(HERE.parents[1]))
    from test_demo_bundle import SHOWN, block_sums, clip_upscaled

    frames = clip_upscaled()
    sums = np.stack([block_sums(frames[index]) for index in SHOWN])
    np.savez_compressed(HERE / "clip.npz", sums=sums.astype(np.uint16))


if __name__ == "__main__":
    if PACK.is_file():
        crop()
    reference()
