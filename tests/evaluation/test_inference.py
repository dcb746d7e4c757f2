from __future__ import annotations

import pytest
import torch
from torch import nn

from pipeline.config.crop_plan import CropGroup, CropPlan
from pipeline.config.data import AugmentationConfig, InputConfig
from pipeline.config.execution import ExecutionConfig
from pipeline.data.normalisation import Preprocessor
from pipeline.evaluation.inference import PlanScorer, SlidingPool, evaluating
from pipeline.ground.errors import UserError

CPU = torch.device("cpu")
PLAN = CropPlan(
    name="three",
    crops=(CropGroup(resize_px=10, crop_px=8, mirror=True), CropGroup(resize_px=8, crop_px=6)),
)


def make_scorer(network: nn.Module, precision: str = "float32", fill_up_to: int = 0) -> PlanScorer:
    preprocessor = Preprocessor(InputConfig(), AugmentationConfig(), CPU, channels_last=True)
    execution = ExecutionConfig(precision=precision)  # type: ignore[arg-type]
    compiled = network if fill_up_to else None
    return PlanScorer(network, PLAN, execution, preprocessor, CPU, fill_up_to or 64, compiled)


def make_crops(images: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    big, small = (torch.randint(0, 256, (images, 3, size, size), generator=generator) for size in (8, 6))
    return big.to(torch.uint8), small.to(torch.uint8)


class LeftHalf(nn.Module):
    """Answers differ for a mirrored image; remembers the sizes of batch it met."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(images))
        return 3 * images[..., : images.shape[-1] // 2].mean((2, 3))


def test_score_is_the_logarithm_of_the_mean_probability_over_crops_and_mirrored_crops() -> None:
    big, small = make_crops(4)
    pixels = InputConfig()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (pixels.mean, pixels.std))
    network = LeftHalf()
    probabilities = [
        network((images.float() - mean) / std).softmax(1) for images in (big, torch.flip(big, dims=[3]), small)
    ]
    expected = torch.stack(probabilities).mean(0).log()
    torch.testing.assert_close(make_scorer(network).log_probabilities((big, small)), expected, rtol=1e-5, atol=1e-5)


def test_a_compiled_network_gives_the_scores_of_the_plain_one() -> None:
    class Means(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.mean((2, 3))

    network = Means()
    preprocessor = Preprocessor(InputConfig(), AugmentationConfig(), CPU, channels_last=True)
    compiled = torch.compile(network, backend="eager", dynamic=False)
    plain, fast = (
        PlanScorer(network, PLAN, ExecutionConfig(channels_last=False), preprocessor, CPU, 8, each)
        for each in (None, compiled)
    )
    torch.testing.assert_close(fast.log_probabilities(make_crops(4)), plain.log_probabilities(make_crops(4)))


def test_classes_far_behind_keep_their_order() -> None:
    class Sure(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.tensor([[0.0, -300.0, -200.0]]).expand(len(images), 3)

    scores = make_scorer(Sure()).log_probabilities(make_crops(2))
    torch.testing.assert_close(scores[0], torch.tensor([0.0, -300.0, -200.0]))


def test_filling_up_a_small_batch_changes_no_score() -> None:
    crops = make_crops(3)
    network = LeftHalf()
    scores = make_scorer(network).log_probabilities(crops)
    network.batches.clear()
    filled = make_scorer(network, fill_up_to=5).log_probabilities(crops)
    assert network.batches == [5, 5, 5]
    torch.testing.assert_close(filled, scores)


def test_network_computes_in_the_precision_of_the_recipe_and_scores_are_float32() -> None:
    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 4)
            self.dtypes: list[torch.dtype] = []

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.linear(images.mean((2, 3)))
            self.dtypes.append(logits.dtype)
            return logits

    network = Linear()
    scores = make_scorer(network, precision="bfloat16").log_probabilities(make_crops(2))
    assert set(network.dtypes) == {torch.bfloat16}
    assert scores.dtype == torch.float32


def test_evaluating_gives_every_module_its_own_mode_back() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout())
    network.train()
    network[1].eval()  # as a frozen batch norm is, in a model that trains
    with evaluating(network):
        assert not any(module.training for module in network.modules())
        assert torch.is_inference_mode_enabled()
    assert [module.training for module in network] == [True, False, True]
    assert network.training

    with pytest.raises(RuntimeError, match="in the middle"), evaluating(network):
        raise RuntimeError("in the middle")
    assert [module.training for module in network] == [True, False, True]


def test_sliding_crops_need_a_map_of_their_size() -> None:
    with pytest.raises(UserError, match=r"crop plan: .* at least 7 x 7 \(given 6 x 9\); raise resize_px or crop_px"):
        SlidingPool()(torch.zeros(1, 2, 6, 9))


def test_a_map_of_7_by_7_is_averaged_as_a_whole() -> None:
    features = torch.randn(2, 3, 7, 7, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(SlidingPool()(features), features.mean((2, 3), keepdim=True))
