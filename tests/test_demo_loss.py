"""The demo model's training loss: what costs more than what."""

from __future__ import annotations

import math

import pytest
import torch

from flashvsr_trt.export.demo.config import LossWeights
from flashvsr_trt.export.demo.loss import loss


def _clips(generator: torch.Generator, batch: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Truth, and a blurred bicubic."""
    truth = torch.rand(batch, 4, 3, 16, 16, generator=generator) * 2 - 1
    return truth, torch.nn.functional.avg_pool3d(truth, (1, 3, 3), stride=1, padding=(0, 1, 1))


def test_loss_is_smallest_for_the_truth_and_forgives_steady_errors_in_time() -> None:
    generator = torch.Generator().manual_seed(0)
    truth, bicubic = _clips(generator)
    weights = LossWeights(psnr=0.0)
    floor = loss(truth, truth, bicubic, weights)
    assert 0 < floor < 0.05  # the rounded tip of the distance
    pattern = 0.1 * torch.randn(3, 16, 16, generator=generator)
    steady = loss(truth + pattern, truth, bicubic, weights)
    blinking = loss(truth + pattern * (-1.0) ** torch.arange(4)[:, None, None, None], truth, bicubic, weights)
    assert floor < steady < blinking


def test_a_higher_psnr_costs_less() -> None:
    """The term is the PSNR's gain over bicubic, which a shift of a whole frame does not change much."""
    generator = torch.Generator().manual_seed(3)
    truth, bicubic = _clips(generator)
    result = truth + 0.1 * torch.randn(truth.shape, generator=generator)
    share = torch.tensor([0.299, 0.587, 0.114]).reshape(3, 1, 1)

    def db(x: torch.Tensor) -> torch.Tensor:
        error = ((x - truth) * share).sum(dim=2)
        return -10 * error.var(dim=(-2, -1), correction=0).log10().mean()

    with_term, without = (loss(result, truth, bicubic, LossWeights(psnr=p)) for p in (1.0, 0.0))
    expected = (db(bicubic) - db(result)) * math.log(10) / 10
    assert float(with_term - without) == pytest.approx(float(expected), abs=0.03)


def test_flicker_costs_most_where_the_truth_stands_still() -> None:
    generator = torch.Generator().manual_seed(0)
    moving, _ = _clips(generator)
    still = moving[:, :1].expand_as(moving)
    blink = 0.01 * (-1.0) ** torch.arange(4)[:, None, None, None] * torch.randn(3, 16, 16, generator=generator)

    def cost(truth: torch.Tensor) -> float:
        bicubic = torch.zeros_like(truth)
        weights = LossWeights(psnr=0.0, gradient=0.0, temporal=1.0)
        return float(loss(truth + blink, truth, bicubic, weights) - loss(truth, truth, bicubic, weights))

    assert cost(still) > 3 * cost(moving)


def test_every_clip_counts_by_its_distance_relative_to_bicubic() -> None:
    """A clip with a tenth of the contrast has a tenth of the error, and about the same share of the loss."""
    truth, bicubic = _clips(torch.Generator().manual_seed(0))
    result = 0.5 * (truth + bicubic)
    strong, faint = (float(loss(k * result, k * truth, k * bicubic, LossWeights())) for k in (1.0, 0.1))
    assert faint == pytest.approx(strong, rel=0.1)
    both = loss(*(torch.cat([x, 0.1 * x]) for x in (result, truth, bicubic)), LossWeights())
    assert both.item() == pytest.approx((strong + faint) / 2, rel=1e-5)


def test_a_coarse_error_counts_beside_fine_ones_and_more_where_it_changes() -> None:
    """The distance of pixels hardly sees it among them: some errors grow by what others shrink."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.zeros(1, 4, 3, 64, 64)
    bicubic = 0.1 * torch.randn(truth.shape, generator=generator)
    fine = 0.1 * torch.randn(truth.shape, generator=generator)
    wave = 0.01 * torch.sin(torch.arange(64) * (2 * math.pi / 32)).expand(3, 64, 64)
    blinking = wave * (-1.0) ** torch.arange(4)[:, None, None, None]

    def cost(error: torch.Tensor, coarse: float) -> float:
        weights = LossWeights(psnr=0.0, coarse=coarse)
        return float(loss(truth + fine + error, truth, bicubic, weights) - loss(truth + fine, truth, bicubic, weights))

    assert abs(cost(blinking, 0.0)) < 0.02
    assert 0.015 < cost(wave, 4.0) < 0.5 * cost(blinking, 4.0)
    assert cost(blinking, 4.0) > 4 * cost(blinking, 0.0)
