"""The commands beside run, and use from Python."""

import json
from pathlib import Path

import command_line
import pytest
from command_line import call, clip, left
from media import frames_of
from stand_in import NoBackend, StandIn

from flashvsr_trt.runtime.commands import bench as bench_module


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    command_line.home(tmp_path, monkeypatch, StandIn)


def test_info_of_a_video_and_of_a_bundle(tmp_path):
    clip(count=12, audio="aac")
    result = call("info", "in.mp4", "--json")
    facts = json.loads(result.out)
    assert (facts["width"], facts["frames"], facts["streams"][0]["codec"]) == (64, 12, "aac")
    assert "64x48" in call("info", "in.mp4").out
    facts = json.loads(call("info", tmp_path / "bundle", "--json").out)
    assert (facts["kind"], facts["model_version"], facts["local_range"]) == ("bundle", "v1.1", 11)
    assert facts["colour_fix"] == "adain"
    assert "gives its input back" in call("info", tmp_path / "bundle").out
    assert call("info", "nothing").code == 2


def test_doctor_says_what_is_in_the_way():
    result = call("doctor", "--json")  # the stand-in bundle holds no graphs
    facts = json.loads(result.out)
    assert result.code == 4
    assert not facts["ok"]
    assert "libx264" in facts["video"]["encoders"]
    assert "CPUExecutionProvider" in facts["a run would use"]["providers"]
    assert call("doctor", "--bundle", "nothing").code == 4


def test_bench_of_a_generated_clip(monkeypatch):
    monkeypatch.setattr(StandIn, "pause", 0.01)
    facts = json.loads(call("bench", "--canvas", "256x128", "--frames", "48", "--json").out)
    assert (facts["frames"], facts["canvas"]) == (48, [256, 128])
    assert facts["ms_per_step"]["tc_decoder"] == pytest.approx(10, abs=0.5)  # the pause, one decode a step
    assert facts["fps_steady"] < 8 / 0.01
    projector = facts["graphs"]["lq_proj"]
    assert facts["matrix_tflops"] == 1
    assert 0 < projector["limit_ms"] == pytest.approx(1000 * projector["tflop"], abs=0.06)  # rounded to 4 places
    assert facts["peak_rss"] > 0


def test_bench_with_more_and_more_frames(monkeypatch):
    monkeypatch.setattr(bench_module, "_GROWTH", (2,))
    facts = json.loads(call("bench", "--canvas", "256x128", "--frames", "32", "--growth", "--json").out)
    assert [run["frames"] for run in facts["growth"]] == [32, 64]
    clip(count=25)
    assert call("bench", "in.mp4", "--growth").code == 2


def test_bench_needs_to_know_what_to_run():
    assert call("bench", "--precision", "fp16").code == 2
    assert call("bench", "--random-weights", "--bundle", "x").code == 2


@pytest.mark.parametrize("variant", ["tiny", "long"])
def test_bench_of_a_clip(variant):
    clip(count=120)
    result = call("bench", "in.mp4", "-m", variant)
    assert result.code == 0, result.err
    for word in ("fps steady", "ms a step", "own share", "peak memory", "cpu"):
        assert word in result.out
    assert left() == ["in.mp4"]


def test_python_use(tmp_path):
    from flashvsr_trt.runtime import Job, upscale_file

    clip(count=25)
    seen = []
    job = Job(source="in.mp4", output="out.mkv")
    report = upscale_file(job, bundle=tmp_path / "bundle", backend=NoBackend(), on_status=seen.append)
    assert (report.size, report.status.frames, report.read.clean) == ((256, 192), 25, True)
    assert seen[-1].frames == 25
    assert len(frames_of(Path("out.mkv"))) == 25
