"""Tiers and the memory planner: integers and files, no TensorRT."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flashvsr_trt.configs import contract, schedule
from flashvsr_trt.configs.cache import cache_root
from flashvsr_trt.configs.errors import BackendUnavailable, OutOfMemory, UsageError
from flashvsr_trt.configs.manifest import File, Manifest
from flashvsr_trt.configs.schedule import Parameters
from flashvsr_trt.configs.tiers import FP8, SIZES, load_tier, read_tier
from flashvsr_trt.engines.key import EngineKey
from flashvsr_trt.engines.store import Engine, EngineSet
from flashvsr_trt.runtime import estimate, planner
from flashvsr_trt.runtime.backends.tensorrt import check_gpu, pick_profile, tiers_of
from flashvsr_trt.runtime.card import Card
from flashvsr_trt.runtime.commands.plan import lines
from flashvsr_trt.runtime.footprint import Work
from flashvsr_trt.runtime.tiles import Grid, Tiling
from flashvsr_trt.runtime.upscaler import Options

GIB = 2**30


def real_manifest(*, vae: bool = False) -> Manifest:
    """The real network's sizes: 30 layers of 1536 channels."""
    memory = ((512, 8),) * 3 + ((256, 4),) * 3 + ((128, 2),) * 3
    caches = ((16, 2, 8), *((384, 2, 8),) * 11, (192, 2, 4), *((384, 2, 4),) * 6)
    caches += ((192, 2, 2),) * 6 + ((96, 2, 1),) * 7
    sizes = contract.Sizes(
        dim=1536, layers=30, lq_hidden=(2048, 3072), tc_memory=memory, vae_caches=caches if vae else ()
    )
    files = {"dit.bin": 2_597_597_184, "lq_proj.bin": 575_705_088, "tc_decoder.bin": 90_660_864}
    if vae:
        files["vae_decoder.bin"] = 146_629_696
    return Manifest(
        model="flashvsr",
        about="",
        model_version="v1.1",
        precision="fp16",
        local_range=11,
        op_abi=1,
        sizes=sizes,
        graphs=contract.graphs(sizes, causal=True),
        files={name: File(sha256="", bytes=size) for name, size in files.items()},
    )


def fitted(made: planner.Plan, variant: str, **options) -> tuple[Options, planner.Plan]:
    """What a run in the plan's tier does with the same picture."""
    asked = made.work
    return Card(asked.tier).fit(asked.manifest, asked.canvas, Options(variant=variant, **options), may_tile=True)


def work(tier: int | str, height: int, width: int, variant: str = "tiny", **extra) -> Work:
    canvas = schedule.canvas(-(-height // 4), -(-width // 4), output=(height, width))
    return Work(manifest=real_manifest(), canvas=canvas, tier=load_tier(tier), variant=variant, **extra)


@pytest.mark.parametrize("variant", ["tiny", "long"])
@pytest.mark.parametrize("tier", SIZES)
@pytest.mark.parametrize(("height", "width"), [(512, 768), (768, 1408), (1080, 1920), (2160, 3840)])
def test_every_tier_plans_every_size_within_its_budget(tier, variant, height, width):
    made = planner.plan(work(tier, height, width, variant))
    assert made.peak <= 0.92 * tier * GIB
    if made.tiling is not None:
        most = made.work.tier.tile
        assert made.tiling.dit[0] <= most[0]
        assert made.tiling.dit[1] <= most[1]
        # The count is that of the grid which the runtime lays out.
        assert made.tiles[0] == len(Grid(made.work.size, made.tiling.dit, made.tiling.dit_overlap))
        assert made.tiles[1] == len(Grid(made.work.size, made.tiling.decoder, made.tiling.decoder_overlap))
    text = "\n".join(lines(made))
    assert f"tier      {tier}gb" in text
    assert "estimated" in text
    options, again = fitted(made, variant)
    assert again == made
    assert (options.tiling, options.phased) == (made.tiling, made.turns)


def test_networks_take_turns_before_the_picture_is_cut():
    """Turns give the same frames, tiles do not. Peaks fall from one to the next."""
    asked = work(24, 768, 1408, "long")
    together = planner.plan(asked)
    assert (together.turns, together.tiling, len(together.phases)) == (False, None, 1)
    tight = replace(asked, tier=replace(asked.tier, memory_gib=int(together.peak / GIB / 0.92)))
    turns = planner.plan(tight)
    assert (turns.turns, turns.tiling) == (True, None)
    assert turns.peak < together.peak
    assert fitted(turns, "long")[0].phased
    assert not fitted(together, "long")[0].phased
    cut = planner.plan(replace(asked, tier=replace(asked.tier, memory_gib=int(turns.peak / GIB / 0.92))))
    assert cut.tiling is not None
    with pytest.raises(OutOfMemory):
        planner.plan(replace(cut.work, may_tile=False))


def test_tiles_that_were_asked_for():
    tiling = Tiling(dit=(512, 640), decoder=(768, 768))
    made = planner.plan(work(8, 1080, 1920, tiling=tiling))
    assert made.tiling == tiling
    assert fitted(made, "tiny", tiling=tiling)[0].tiling == tiling
    with pytest.raises(UsageError, match="tiles of 1024x1024 for the dit"):
        planner.plan(work(8, 1080, 1920, tiling=Tiling(dit=(1024, 1024), decoder=(512, 512))))
    # A tile that covers the picture is no larger than the picture.
    assert planner.plan(work(8, 512, 768, tiling=Tiling(dit=(2048, 2048), decoder=(768, 768)))).tiles == (1, 1)
    with pytest.raises(UsageError, match="without tiles"):
        planner.plan(work(8, 1080, 1920, may_tile=False))


def test_work_of_options():
    options = Options(variant="full", colour_fix="wavelet", bits=16, parameters=Parameters(kv_ratio=2.0))
    canvas = schedule.canvas(270, 480, output=(1080, 1920))
    manifest = real_manifest(vae=True)
    made = Card(load_tier(12)).plan(manifest, canvas, options).work
    assert (made.decoder, made.post, made.kv_ratio, made.tier.name) == ("vae_decoder", "post_wavelet16", 2.0, "12gb")


@pytest.mark.parametrize(("gib", "tiled"), [(141, False), (80, False), (48, True), (24, True)])
def test_card_without_engines_is_bounded_by_its_memory_alone(gib, tiled):
    """4K by a back end that takes any shape: 34 GB of KV cache for 3 slabs, 45 for 4 slots."""
    card = Card.with_memory(gib * GIB + 1000)
    made = card.plan(real_manifest(), schedule.canvas(540, 960, output=(2160, 3840)), Options())
    assert (made.tiling is not None) == tiled
    assert made.peak <= 0.92 * gib * GIB
    tiling = Tiling(dit=(2176, 2176), decoder=(2176, 2176))
    for asked in (Options(), Options(tiling=tiling)):  # what was asked for is tried: memory is only estimated
        options, own = card.fit(real_manifest(), made.work.canvas, asked, may_tile=False)
        assert options == asked
        assert own is None if gib == 24 or (tiled and asked.tiling is None) else own.fits
    wide = schedule.canvas(270, 2000, output=(1080, 8000))
    assert card.plan(real_manifest(), wide, Options(parameters=Parameters(kv_ratio=6.0))).fits


@pytest.mark.parametrize(
    ("size", "options", "measured"),
    [  # GiB, one H200, see plugins_trt/NOTES.md
        ((768, 1408), {}, 11.8),
        ((768, 1408), {"variant": "full"}, 40.8),
        ((1024, 1920), {}, 18.8),
        ((2048, 3840), {}, 66.1),
        ((2048, 3840), {"variant": "full", "tiling": Tiling(dit=(1152, 1152), decoder=(768, 896))}, 24.1),
    ],
)
def test_memory_without_engines_is_what_was_measured(size, options, measured):
    canvas = schedule.canvas(size[0] // 4, size[1] // 4, output=size)
    made = Card.with_memory(141 * GIB).plan(real_manifest(vae=True), canvas, Options(**options))
    assert made.peak / GIB == pytest.approx(measured, rel=0.1)


@pytest.mark.parametrize(
    ("size", "options", "measured"),
    [  # GiB of the host, libx264 included, the same runs
        ((768, 1408), {}, 1.79),
        ((1024, 1920), {}, 2.46),
        ((2048, 3840), {}, 6.16),
        ((2048, 3840), {"segment_steps": 1, "tiling": Tiling(dit=(1152, 2048), decoder=(768, 2048))}, 52.6),
        ((2048, 3840), {"segment_steps": 4, "tiling": Tiling(dit=(1152, 2048), decoder=(2048, 1408))}, 53.7),
        (
            (2048, 3840),
            {"variant": "full", "segment_steps": 4, "tiling": Tiling(dit=(1152, 1152), decoder=(768, 896))},
            96.1,
        ),
    ],
)
def test_host_memory_beside_a_gpu_is_what_was_measured(size, options, measured):
    canvas = schedule.canvas(size[0] // 4, size[1] // 4, output=size)
    needed = estimate.memory(real_manifest(vae=True), canvas, Options(**options), "libx264", on_gpu=True)
    assert needed.total / GIB == pytest.approx(measured, rel=0.1)


def test_fp8_weights_leave_more_room():
    plain, eighth = (planner.plan(replace(work(8, 512, 768), tier=load_tier(name))) for name in ("8", "8-fp8"))
    assert plain.phases[0].weights - eighth.phases[0].weights == real_manifest().files["dit.bin"].bytes // 2


@pytest.mark.parametrize("tier", [*SIZES, *(f"{size}-fp8" for size in FP8)])
def test_tier_computes_its_own_tile_at_once(tier):
    tile = load_tier(tier).tile
    made = planner.plan(work(tier, *tile, load_tier(tier).variant))
    assert made.tiles[0] == 1


@pytest.mark.parametrize("tier", SIZES)
def test_decoder_tiles_stay_below_two_to_the_31_numbers(tier):
    """8 frames of 128 channels at full size; at 2176x2176 a build was seen to report a third of the memory."""
    height, width = load_tier(tier).decoder_tile
    assert 8 * 128 * height * width < 2**31


def test_kv_cache_is_the_contracts():
    """4 slots of 1,440 bytes an output pixel, as the design's 4,320 for 3 slabs; the rest is far smaller."""
    made = planner.plan(work(24, 768, 1408))
    denoise = made.phases[0]
    ring = 4 * 1440 * 768 * 1408
    assert ring < denoise.buffers < 1.2 * ring


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(SIZES),
    st.integers(64, 4096),
    st.integers(64, 4096),
    st.sampled_from(["tiny", "long"]),
    st.sampled_from([1.0, 2.0, 3.0]),
)
def test_plans_fit_or_are_refused(tier, height, width, variant, kv_ratio):
    made = planner.plan(work(tier, height, width, variant, kv_ratio=kv_ratio))
    assert made.fits
    assert made.tiling is None or min(made.tiling.dit) >= 128


def test_less_memory_for_less_history():
    peaks = [planner.plan(work(8, 512, 768, kv_ratio=ratio)).phases[0].buffers for ratio in (1.0, 3.0)]
    assert peaks[0] < peaks[1]


def test_refusals(tmp_path):
    with pytest.raises(UsageError, match="at most 4096 a side"):
        planner.plan(work(48, 4320, 7680))
    with pytest.raises(UsageError, match="kv_ratio 8 needs 9 slots"):
        planner.plan(work(8, 512, 768, kv_ratio=8.0))
    small = tmp_path / "3gb.toml"
    small.write_text(tier_text().replace("memory_gib = 8", "memory_gib = 3"))
    nothing = work(8, 512, 768)
    with pytest.raises(OutOfMemory, match="in tier 3gb"):
        planner.plan(Work(manifest=nothing.manifest, canvas=nothing.canvas, tier=read_tier(small), variant="tiny"))


def engine_set(activations: int = 0) -> EngineSet:
    engine = Engine(
        file="x.plan",
        sha256="",
        bytes=GIB,
        weights=GIB,
        activations=activations,
        layers=1,
        plugins=0,
        seconds=1.0,
    )
    key = EngineKey(
        bundle="", decoder="tc_decoder", plugin="", tier="8gb", tier_values="", profiles={}, flags={},
        flavour="tensorrt_rtx", version="1", targets=("sm86", "sm89"),
    )  # fmt: skip
    return EngineSet(
        folder=Path("set"), key=key, engines=dict.fromkeys(real_manifest().graphs, engine), bundle="", source=""
    )


def test_recorded_numbers_are_used():
    asked = work(24, 512, 768, "long")
    made = planner.plan(asked, engine_set(activations=3 * GIB))
    assert made.engines is not None
    assert "engines   set: memory as their build told" in lines(made)
    (phase,) = made.phases
    assert phase.weights == 5 * GIB  # lq_proj and its first, dit, decoder, colour fix
    height, width = asked.tier.decoder_tile
    assert phase.scratch == pytest.approx(
        3 * GIB * 512 * 768 / min(height * width, asked.tier.tile[0] * asked.tier.tile[1]), rel=0.01
    )
    # More scratch memory than the tier has: the picture is cut, until it fits.
    cut = planner.plan(work(24, 1024, 1920, "long"), engine_set(activations=40 * GIB))
    assert cut.tiling is not None
    assert cut.fits


# Tier files


def tier_text() -> str:
    import importlib.resources

    return importlib.resources.files("flashvsr_trt.configs").joinpath("tiers", "8gb.toml").read_text()


def test_names_of_tiers():
    assert load_tier("8") == load_tier(8) == load_tier("8GB")
    assert (load_tier("12-fp8").name, load_tier("12gb-FP8").weights) == ("12gb-fp8", "fp8")
    assert load_tier(load_tier("12-fp8").name) == load_tier("12-fp8")
    for size in FP8:
        plain, eighth = load_tier(size), load_tier(f"{size}-fp8")
        assert replace(eighth, name=plain.name, weights="bundle", tile=plain.tile) == plain
        assert math.prod(eighth.tile) > math.prod(plain.tile)
    with pytest.raises(UsageError, match="no tier '10'") as caught:
        load_tier(10)
    assert "8, 12, 16, 24, 48" in caught.value.expected


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("kv_slots = 4", "kv_slots = 4\nspeed = 9", "does not know the key 'speed'"),
        ("kv_slots = 4", "", "lacks the key 'kv_slots'"),
        ("kv_slots = 4", "kv_slots = 'four'", "kv_slots is 'four'"),
        ("kv_slots = 4", "kv_slots = true", "kv_slots is True"),
        ("kv_slots = 4", "kv_slots = 2", "kv_slots is 2"),
        ('variant = "tiny"', 'variant = "huge"', "variant is huge"),
        ('weights = "bundle"', 'weights = "int4"', "weights is int4"),
        ("tile = [512, 768]", "tile = [512, 700]", "tile is"),
        ("tile = [512, 768]", "tile = 512", "tile is 512"),
        ("kv_slots = 4", "kv_slots = ", "cannot be read"),
    ],
)
def test_wrong_tier_files_are_told(tmp_path, old, new, message):
    text = tier_text()
    assert old in text
    path = tmp_path / "mine.toml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(UsageError, match=message) as caught:
        load_tier(str(path))
    assert "mine" in str(caught.value)


def test_unknown_key_lists_the_known_ones(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(tier_text() + "\nspeed = 9\n")
    with pytest.raises(UsageError) as caught:
        read_tier(path)
    assert "memory_gib, tile, decoder_tile, kv_slots" in caught.value.expected


def test_cache_root(monkeypatch):
    monkeypatch.setenv("FLASHVSR_TRT_CACHE", "/somewhere")
    assert cache_root() == Path("/somewhere")
    monkeypatch.delenv("FLASHVSR_TRT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_root() == Path("/xdg/flashvsr-trt")


# What the back end decides before it touches a GPU


@pytest.mark.parametrize(
    ("mib", "largest"),
    [(6144, "8gb"), (8188, "8gb"), (11264, "8gb"), (12282, "12gb"), (24564, "24gb"), (46068, "24gb"), (81559, "48gb")],
)
def test_largest_tier_that_fits_a_card(mib, largest):
    """As cards tell their memory; they tell a little less than is printed on them."""
    found = tiers_of(mib << 20)
    assert found[0].name == largest
    assert [tier.memory_gib for tier in found] == sorted((tier.memory_gib for tier in found), reverse=True)
    assert [tier.name for tier in found[-2:]] == ["8gb", "8gb-fp8"]


def test_engines_of_another_gpu_are_refused():
    check_gpu(engine_set(), 89, "RTX 4090")
    with pytest.raises(BackendUnavailable, match="this GPU is sm90") as caught:
        check_gpu(engine_set(), 90, "H200")
    assert "--target sm90" in caught.value.todo


def test_profile_is_the_first_that_holds_the_shapes():
    ranges = [{"frames": ((1, 3), (8, 100))}, {"frames": ((1, 3), (1, 4096))}]
    assert pick_profile(ranges, {"frames": (8, 100)}) == 0
    assert pick_profile(ranges, {"frames": (1, 2000)}) == 1
    with pytest.raises(BackendUnavailable, match=r"frames is \[2, 2000\]") as caught:
        pick_profile(ranges, {"frames": (2, 2000)})
    assert "from [1, 3] to [8, 100]" in caught.value.expected
