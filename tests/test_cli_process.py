"""The command line as a process of its own, on real networks of random weights: signals, pipes, limits, imports."""

import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from counts import FAULTS
from media import frames_of, picture, write_clip

PROGRAM = [sys.executable, "-c", "from flashvsr_trt.runtime.cli import main; main()"]
Y4M = b"YUV4MPEG2 W64 H48 F25:1 Ip A1:1 C420jpeg\n" + (b"FRAME\n" + bytes(64 * 48 * 3 // 2)) * 30
PATIENCE_S = 60  # for a process on a busy machine


@pytest.fixture(autouse=True)
def _work(tmp_path, monkeypatch, seeded_bundle):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLASHVSR_TRT_BUNDLE", str(seeded_bundle))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def start(*args, **settings):
    settings = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | settings
    return subprocess.Popen([*PROGRAM, *map(str, args)], **settings)


def finish(process):
    """(exit code, stdout, stderr); no traceback, no abort, whatever happened."""
    out, err = process.communicate(timeout=PATIENCE_S)
    text = err.decode() if err else ""
    assert "Traceback" not in text
    assert "Fatal Python error" not in text
    return process.returncode, out, text


def clip(count, width=64, height=48):
    return write_clip(Path("in.mp4"), [picture(i, width, height) for i in range(count)])


def wait_for_part(process):
    """Waits until frames have left the networks: the output has begun to grow."""
    deadline = time.monotonic() + PATIENCE_S
    while not [*Path.cwd().glob("**/.*.flashvsr/*.nut"), *Path.cwd().glob(".*.part")]:
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_there(group):
    """Whether a process of that group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def assert_taken_up():
    """out.mkv, stopped and gone on with, has the frames and times of whole.mkv, and nothing else is left."""
    FAULTS["runs stopped by signals and taken up"] += 1
    FAULTS["frames lost"] += len(frames_of(Path("whole.mkv"))) - len(frames_of(Path("out.mkv")))
    pairs = zip(frames_of(Path("out.mkv")), frames_of(Path("whole.mkv")), strict=True)
    assert all(
        a.pts == b.pts and np.array_equal(a.to_ndarray(format="rgb24"), b.to_ndarray(format="rgb24")) for a, b in pairs
    )
    assert left() == ["in.mp4", "out.mkv", "whole.mkv"]


def left():
    return sorted(path.name for path in Path.cwd().iterdir())


@pytest.mark.parametrize("variant", ["tiny", "long"])
def test_a_run_from_file_to_file(variant):
    clip(26)
    code, out, err = finish(start("run", "in.mp4", "-s", 2, "-m", variant, "--json", "--threads", 1))
    assert code == 0, err
    events = [json.loads(line) for line in out.splitlines()]
    assert events[-1]["event"] == "done"
    assert events[-1]["seconds"]["networks"] > 0
    assert [(f.width, f.height) for f in frames_of(Path("in_flashvsr_2x.mp4"))] == [(128, 96)] * 26
    assert "its picture content means nothing" in err


def test_both_variants_write_the_same_file():
    clip(30)
    for variant in ("tiny", "long"):
        code, _, err = finish(
            start("run", "in.mp4", "-s", 2, "-m", variant, "-o", f"{variant}.mkv", "--lossless", "--segment-steps", 2)
        )
        assert code == 0, err
    pairs = zip(frames_of(Path("tiny.mkv")), frames_of(Path("long.mkv")), strict=True)
    assert all(np.array_equal(a.to_ndarray(format="rgb24"), b.to_ndarray(format="rgb24")) for a, b in pairs)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_cleanly(number):
    clip(400)
    process = start("run", "in.mp4", "-o", "out.mp4")
    wait_for_part(process)
    process.send_signal(number)
    code, _, err = finish(process)
    assert (code, "stopping after this step" in err, "stopped after" in err) == (130, True, True)
    assert "flashvsr-trt run in.mp4 -o out.mp4 --resume" in err
    assert left() == [".out.mp4.flashvsr", "in.mp4"]


@pytest.mark.parametrize("signals", [1, 2])
def test_a_stopped_run_is_taken_up(signals):
    """Once: not even a frame of work is lost. Twice, at once: what was closed before. The frames are the same."""
    clip(60)
    flags = ("run", "in.mp4", "--lossless", "-s", 2, "--segment", 0.8)
    assert finish(start(*flags, "-o", "whole.mkv"))[0] == 0
    process = start(*flags, "-o", "out.mkv")
    deadline = time.monotonic() + PATIENCE_S
    while not Path(".out.mkv.flashvsr/state.json").exists():
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    for _ in range(signals):
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)
    code, _, err = finish(process)
    assert (code, "run in.mp4 --lossless -s 2 --segment 0.8 -o out.mkv --resume" in err) == (130, True), err
    code, _, err = finish(start(*flags, "-o", "out.mkv", "--resume"))
    assert (code, "going on at frame" in err) == (0, True), err
    assert_taken_up()


@pytest.mark.parametrize("signals", [1, 2])
def test_a_stopped_run_on_two_devices_is_taken_up(signals):
    """A stop reaches the worker processes, which outlive nobody; the frames are those of one device."""
    clip(200)  # the test pictures begin again after 50: four scenes
    flags = ("run", "in.mp4", "--lossless", "-s", 2, "--segment", 2)
    assert finish(start(*flags, "-o", "whole.mkv", "--threads", 1))[0] == 0
    process = start(*flags, "-o", "out.mkv", "--devices", "cpu,cpu", "--threads", 2, start_new_session=True)
    deadline = time.monotonic() + PATIENCE_S
    while not [*Path(".out.mkv.flashvsr").glob("part-*/state.json")]:
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    for _ in range(signals):
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to all processes of the job
        time.sleep(0.05)
    code, _, err = finish(process)
    assert (code, "--devices cpu,cpu --threads 2 --resume" in err) == (130, True), err
    while is_there(process.pid):  # a worker that is ending
        assert time.monotonic() < deadline
        time.sleep(0.05)
    code, _, err = finish(start(*flags, "-o", "out.mkv", "--devices", "cpu,cpu", "--threads", 2, "--resume"))
    assert (code, "going on at frame" in err) == (0, True), err
    assert_taken_up()


def test_keys_pause_go_on_and_stop():
    pty = pytest.importorskip("pty")
    clip(400)
    master, terminal = pty.openpty()
    process = start("run", "in.mp4", "-o", "out.mp4", stdin=terminal, stderr=terminal)
    os.close(terminal)
    wait_for_part(process)
    os.write(master, b" ")
    said = read_until(master, b"paused")
    os.write(master, b" ")
    said += read_until(master, b"going on")
    os.write(master, b"q")
    said += read_until(master, b"--resume")
    assert process.wait(PATIENCE_S) == 130
    assert b"Traceback" not in said
    process.stdout.close()
    os.close(master)


def read_until(number, words):
    """What comes over a terminal up to `words`."""
    said, deadline = b"", time.monotonic() + PATIENCE_S
    while words not in said:
        assert time.monotonic() < deadline, said.decode()
        if select.select([number], [], [], 0.2)[0]:
            said += os.read(number, 4096)
    return said


def test_a_signal_in_a_batch_stops_the_batch():
    clip(400)
    os.link("in.mp4", "in2.mp4")
    process = start("run", "in.mp4", "in2.mp4", "-o", "out/")
    wait_for_part(process)
    process.send_signal(signal.SIGINT)
    assert finish(process)[0] == 130
    assert left() == ["in.mp4", "in2.mp4", "out"]
    assert os.listdir("out") == [".in_flashvsr_4x.mp4.flashvsr"]


def test_a_second_signal_does_not_wait():
    clip(400, 160, 96)
    process = start("run", "in.mp4", "-o", "out.mp4")
    wait_for_part(process)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    assert finish(process)[0] == 130
    assert left() == ["in.mp4"]


def test_a_silent_pipe_does_not_hold_up_a_signal():
    process = start("run", "-", "-o", "out.mkv", "-s", 2, stdin=subprocess.PIPE)
    process.stdin.write(Y4M)
    process.stdin.flush()
    wait_for_part(process)
    process.send_signal(signal.SIGINT)
    begun = time.monotonic()
    assert process.wait(PATIENCE_S) == 130
    assert time.monotonic() - begun < 20
    assert left() == []
    assert "Fatal" not in process.stderr.read().decode()
    process.stdin.close()
    process.stderr.close()
    process.stdout.close()


def test_pipe_to_pipe():
    process = start("run", "-", "-o", "-", "-s", 2, stdin=subprocess.PIPE)
    out, err = process.communicate(Y4M, timeout=PATIENCE_S)
    assert process.returncode == 0, err.decode()
    assert out.startswith(b"YUV4MPEG2 W128 H96")
    assert out.count(b"FRAME\n") == 30


def test_a_pipe_that_nobody_reads_is_an_error():
    clip(200)
    process = start("run", "in.mp4", "-o", "-")
    process.stdout.read(100)
    process.stdout.close()
    process.stdout = None
    code, _, err = finish(process)
    assert (code, "error: " in err) == (1, True)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_device_is_an_error():
    clip(30)
    with open("/dev/full", "wb") as full:
        code, _, err = finish(start("run", "in.mp4", "-o", "-", stdout=full))
    assert (code, "No space left" in err) == (1, True)


def test_a_disk_that_fills_up_leaves_nothing():
    rng = np.random.default_rng(0)
    write_clip(Path("in.mp4"), [rng.integers(0, 256, (48, 64, 3), np.uint8) for _ in range(40)])

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    code, _, err = finish(start("run", "in.mp4", "-o", "out.mkv", "--lossless", preexec_fn=limit))
    assert (code, "writing out.mkv failed" in err) == (1, True), err
    assert left() == ["in.mp4"]


def test_a_corrupt_graph_is_2(tmp_path, seeded_bundle):
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in seeded_bundle.iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    graph = broken / "dit_first.onnx"
    graph.write_bytes(bytes(graph.stat().st_size))  # the same size: only its content is wrong
    clip(2)
    code, _, err = finish(start("run", "in.mp4", "-o", "out.mp4", "--bundle", broken))
    assert (code, "dit_first.onnx" in err) == (2, True)
    assert left() == ["broken", "in.mp4"]
    code, out, _ = finish(start("doctor", "--bundle", broken))
    assert (code, b"SHA-256" in out) == (4, True)


def test_doctor_is_content():
    code, out, err = finish(start("doctor"))
    assert (code, b"a run would work" in out) == (0, True), err


def test_help_loads_neither_back_end_nor_arrays():
    heavy = ("numpy", "av", "onnxruntime", "torch", "onnx", "rich", "PIL")
    code = (
        "import sys\nfrom flashvsr_trt.runtime.cli import cli\n"
        "try:\n    cli.main([])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        f"print([name for name in {heavy} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    assert done.stderr.strip() == "[]"


def test_the_runtime_loads_neither_torch_nor_onnx():
    clip(2)
    code = (
        "import sys\nfrom flashvsr_trt.runtime.cli import cli\n"
        "try:\n    cli.main(['run', 'in.mp4', '-q'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "print([name for name in ('torch', 'onnx') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    assert done.stdout.strip() == "[]"
