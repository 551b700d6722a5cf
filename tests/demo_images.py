"""Pictures that the tests of the demo model draw."""

from __future__ import annotations

import numpy as np
import pytest

from flashvsr_trt.export.demo import procedural


@pytest.fixture(scope="module")
def images() -> dict[str, np.ndarray]:
    drawn = {f"procedural/{i}": np.asarray(procedural.image(np.random.default_rng(i), i, [])) for i in (0, 2)}
    return {name: pixels[:400, :500] for name, pixels in drawn.items()}
