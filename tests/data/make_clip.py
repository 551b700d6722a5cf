"""Made clip.mp4: a slow pan and zoom over scikit-image's photograph of the cat Chelsea (CC0, Stefan van der Walt).

    python tests/data/make_clip.py chelsea.png clip.mp4

The demo model never saw the photograph. 160x90, 25 frames/s, 50 frames, H.264.
"""

import sys
from fractions import Fraction

import av
from PIL import Image

SIZE, FRAMES, RATE = (160, 90), 50, 25


def main() -> None:
    source, target = sys.argv[1:]
    photo = Image.open(source).convert("RGB")
    with av.open(target, "w") as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt, stream.time_base = *SIZE, "yuv420p", Fraction(1, RATE)
        stream.options = {"crf": "10"}
        for index in range(FRAMES):
            t = index / (FRAMES - 1)
            width = 400 - 110 * t  # of the part that is seen, in pixels of the photograph
            left, top = 25 + 75 * t, 40 + 10 * t
            box = (left, top, left + width, top + width * SIZE[1] / SIZE[0])
            picture = photo.resize(SIZE, Image.Resampling.LANCZOS, box=box)
            container.mux(stream.encode(av.VideoFrame.from_image(picture)))
        container.mux(stream.encode(None))


if __name__ == "__main__":
    main()
