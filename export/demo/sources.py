"""Where the training images come from, under which licence, and which of them are held out.

Only material in the public domain or under CC0, CC-BY or MIT is used: nothing with a share-alike or copyleft
clause. Archives are pinned by hash, so the packed images are the same for everyone.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Source:
    """One archive and the images taken from it.

    `kind` is `wheel` (PyPI) or `deb` (Debian); `folder` is the images' path inside the archive; `images` are
    file names under it.
    """

    name: str
    kind: str
    package: str
    version: str
    sha256: str
    folder: str
    licence: str
    images: tuple[str, ...]
    python: str = "3.11"


_ENDLESS_SKY = (
    "badlands0 badlands5 badlands7 badlands8 beach0 beach2 beach3 beach4 beach5 beach6 canyon0 canyon7 "
    "city10 city11 city12 city4 city6 city8 city9 desert0 desert2 fields1 fields5 fields6 fields7 fields9 "
    "fog0 fog4 forest1 forest2 forest3 forest4 forest5 hills2 lava0 lava1 lava2 lava6 mountain1 mountain3 "
    "mountain4 mountain5 mountain6 mountain7 mountain8 mountain9 nasa0 nasa1 nasa2 nasa3 nasa4 nasa5 "
    "nasa6 nasa7 sea3 sea8 sky0 sky3 sky7 sky8 sky9 snow0 snow10 snow1 snow2 snow3 snow4 snow7 space0 "
    "space1 space2 space3 space5 space6 space7 station1 station3 station4 water0 water8"
)

SOURCES = (
    Source(
        name="skimage",
        kind="wheel",
        package="scikit-image",
        version="0.16.2",  # the last wheel that carries its photographs instead of downloading them
        sha256="2aa962aa82d815606d7dad7f045f5d7ca55c65b4320d47e15a98fc92612c2d6c",
        folder="skimage/data",
        licence="public domain (NASA: astronaut, hubble_deep_field, moon) or CC0 (the others)",
        images=(
            "astronaut.png",
            "brick.png",
            "chelsea.png",
            "coffee.png",
            "grass.png",
            "gravel.png",
            "hubble_deep_field.jpg",
            "ihc.png",
            "moon.png",
            "page.png",
            "retina.jpg",
            "rocket.jpg",
        ),
        python="3.7",
    ),
    Source(
        name="sklearn",
        kind="wheel",
        package="scikit-learn",
        version="1.9.1",
        sha256="52a0703bbc07ad27f560fa63fa68e4c54dd735bfbbf65b4dd3c225dc7547b6df",
        folder="sklearn/datasets/images",
        licence="CC-BY 2.0 (china: danielbuechele; flower: vultilion)",
        images=("china.jpg", "flower.jpg"),
    ),
    Source(
        name="matplotlib",
        kind="wheel",
        package="matplotlib",
        version="3.11.2",
        sha256="07d9b9fa60cd4c393692f50d0bb03123242ddf61c99bb0e95e75feb354e7c1a8",
        folder="matplotlib/mpl-data/sample_data",
        licence="public domain (US Navy); its DejaVu fonts (Bitstream Vera licence) draw the procedural text",
        images=("grace_hopper.jpg",),
    ),
    Source(
        name="nikola",
        kind="wheel",
        package="nikola",
        version="8.3.3",
        sha256="cf01deb90e7062912cd96029fc477a41686bcd5bb1452f101c999f777fcc181a",
        folder="nikola/data/samplesite/images",
        licence="public domain (engravings of 1899)",
        images=("frontispiece.jpg", "illus_001.jpg"),
    ),
    Source(
        name="pyvista",
        kind="wheel",
        package="pyvista",
        version="0.49.1",
        sha256="e4bd78c829051207e885281c45d03280dcde25445e1885c0824518ea7849b1c8",
        folder="pyvista/examples",
        licence="CC-BY 4.0 (Solar System Scope)",
        images=("2k_earth_daymap.jpg",),
    ),
    Source(
        name="robosuite",
        kind="wheel",
        package="robosuite",
        version="1.5.2",
        sha256="b9e02df55de8949739de6ba1d196d2ba59cf33c51a76efcfbe5c2f73cdcf99ce",
        folder="robosuite/models/assets/textures",
        licence="MIT",
        images=(
            "blue-wood.png",
            "brass-ambra.png",
            "bread.png",
            "clay.png",
            "cream-plaster.png",
            "dark-wood.png",
            "dirt.png",
            "gray-felt.png",
            "gray-woodgrain.png",
            "green-wood.png",
            "lemon.png",
            "light-wood.png",
            "red-wood.png",
            "steel-brushed.png",
            "steel-scratched.png",
            "white-bricks.png",
            "wood-tiles.png",
            "wood-varnished-panels.png",
        ),
    ),
    Source(
        name="vpython",
        kind="wheel",
        package="vpython",
        version="7.6.5",
        sha256="22b98eb35d9fef8b43582680a80af40f357a6df760dd2b1d774383fb6641d3aa",
        folder="vpython/vpython_data",
        licence="MIT",
        images=(
            "flower_texture.jpg",
            "granite_texture.jpg",
            "gravel_texture.jpg",
            "rock_texture.jpg",
            "rug_texture.jpg",
            "stones_texture.jpg",
            "stucco_texture.jpg",
            "wood_old_texture.jpg",
            "wood_texture.jpg",
        ),
    ),
    Source(
        name="budgie",
        kind="deb",
        package="budgie-backgrounds",
        version="3.0-1",
        sha256="b91c2d5209558bc11d8d3a161f22a608857e3f8c735980cfab0d6650b03014ca",
        folder="usr/share/backgrounds/budgie",
        licence="CC0 1.0",
        images=(
            "abstract-spiral.jpg",
            "beacon-street-sunset.jpg",
            "blue-periwinkle.jpg",
            "canyon-wren.jpg",
            "casa-mila.jpg",
            "extreme-desert-hike.jpg",
            "high-trestle-trail.jpg",
            "lake-sherburne.jpg",
            "oakland-zoo-otters.jpg",
            "ocean-waves.jpg",
            "perched-osprey.jpg",
            "piazza-gae-aulenti.jpg",
            "roman-colosseum.jpg",
            "singaporean-cityscape.jpg",
            "tea-gardens.jpg",
        ),
    ),
    Source(
        name="lomiri",
        kind="deb",
        package="lomiri-wallpapers-16.04",
        version="20.04.0-4",
        sha256="f74676719f9d0128e5310e65ef97d596bcece8b6a43524ab8949ee1be0a4f18c",
        folder="usr/share/backgrounds",
        licence="CC-BY 4.0 (authors in the file names; freespace, Berasategi, Mede) and CC0 (seeding)",
        images=(
            "Picture_0B_by_freespace.jpg",
            "Picture_1A_by_freespace.jpg",
            "Wine_by_Jakkub_Mede.jpg",
            "aitzgorri_by_Aitzol_Berasategi.jpg",
            "friends_by_Aitzol_Berasategi.jpg",
            "life_by_Aitzol_Berasategi.jpg",
            "picosdeeuropa_by_Aitzol_Berasategi.jpg",
            "seeding_by_Clements_Engelhardt.jpg",
            "sunset_by_Aitzol_Berasategi.jpg",
        ),
    ),
    Source(
        name="endless-sky",
        kind="deb",
        package="endless-sky-high-dpi",
        version="0.9.8-1",
        sha256="44170b9aad0ecc8f5a39d8c6b1af233100cfc6bc0bab2352d62fb014b5099164",
        folder="usr/share/games/endless-sky/plugins/endless-sky-high-dpi/images/land",
        licence="public domain, as the package says of each (photographs from unsplash.com, NASA, USGS)",
        images=tuple(f"{name}@2x.jpg" for name in _ENDLESS_SKY.split()),
    ),
)

# Whole images that training never sees. Validation draws the curve; the reported figures come from `test`.
VALIDATION = (
    "skimage/coffee",
    "lomiri/Picture_1A_by_freespace",
    "budgie/oakland-zoo-otters",
    "robosuite/white-bricks",
)
TEST = (
    "budgie/perched-osprey",
    "budgie/roman-colosseum",
    "budgie/singaporean-cityscape",
    "lomiri/friends_by_Aitzol_Berasategi",
    "lomiri/life_by_Aitzol_Berasategi",
    "robosuite/wood-tiles",
    "skimage/chelsea",
    "sklearn/china",
    "vpython/stones_texture",
)


def split_of(name: str) -> str:
    """`train`, `validation` or `test` for an image name such as `skimage/coffee`."""
    return "test" if name in TEST else "validation" if name in VALIDATION else "train"
