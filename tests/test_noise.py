import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from flashvsr_trt.runtime.noise import noise, philox4x32
from flashvsr_trt.runtime.rope import rotary_table


def test_philox_known_answers():
    """The three vectors of Random123's known-answer tests for philox4x32-10."""
    ones = 0xFFFFFFFF
    pi = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344)
    cases = [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((ones,) * 4, (ones, ones), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (pi, (0xA4093822, 0x299F31D0), (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
    ]
    for counter, key, expected in cases:
        got = philox4x32(tuple(np.array([c]) for c in counter), key)
        assert tuple(int(g[0]) for g in got) == expected


def test_noise_is_standard_normal():
    values = noise(0, range(0, 6), 96, 176).astype(np.float64)
    assert abs(values.mean()) < 3e-3  # 3 sigma of the mean of 1.6 M numbers is 2.4e-3
    assert abs(values.std() - 1) < 2e-3
    assert abs((values**3).mean()) < 0.01
    assert abs((values**4).mean() - 3) < 0.03
    flat = values.reshape(6, -1)
    assert np.abs(np.corrcoef(flat) - np.eye(6)).max() < 0.01
    assert abs(np.corrcoef(values[..., :-1].ravel(), values[..., 1:].ravel())[0, 1]) < 0.005


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**64 - 1), st.integers(0, 2**40), st.integers(1, 9), st.integers(1, 9))
def test_noise_depends_on_its_own_coordinates_only(seed, frame, height, width):
    alone = noise(seed, range(frame, frame + 1), height, width)
    among = noise(seed, range(frame, frame + 2), height + 3, width + 5)
    assert alone.dtype == np.float16
    np.testing.assert_array_equal(alone[0], among[0, :, :height, :width])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 20), st.integers(0, 20), st.integers(1, 9), st.integers(1, 9))
def test_a_part_has_the_noise_of_the_whole(top, left, height, width):
    whole = noise(3, range(7, 9), top + height, left + width)
    part = noise(3, range(7, 9), height, width, (top, left))
    np.testing.assert_array_equal(part, whole[:, :, top:, left:])


def test_seeds_and_frames_differ():
    base = noise(1, range(4), 8, 8)
    assert not np.array_equal(base, noise(2, range(4), 8, 8))
    assert not np.array_equal(base, noise(1 + 2**32, range(4), 8, 8))
    assert len({frame.tobytes() for frame in base}) == 4


def test_rotary_angles_do_not_end():
    """Far beyond any table, an angle is still the exact product reduced modulo 2 pi."""
    frame = 1_000_003
    table = rotary_table(range(frame, frame + 1), 22)
    angles = [frame * 10000.0 ** (-2 * j / 44) for j in range(22)]
    np.testing.assert_allclose(table[0, :, 0], np.cos(angles), atol=1e-6)
    np.testing.assert_allclose(table[0, :, 1], np.sin(angles), atol=1e-6)
