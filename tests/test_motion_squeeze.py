"""MotionSqueeze and the temporal shift: known displacements, both forms alike, gradients, compilers, cost."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from coviar_mocrop.errors import ModelError
from coviar_mocrop.flops import count_flops
from coviar_mocrop.networks.backbones import create_backbone
from coviar_mocrop.networks.config import ModelConfig
from coviar_mocrop.networks.motion_squeeze import MotionSqueeze, correlate, soft_argmax
from coviar_mocrop.networks.stream_net import create_network
from coviar_mocrop.networks.temporal_shift import temporal_shift

FORMS: tuple[Any, ...] = ("pairs", "window")


def maps(shift: tuple[int, int], *, smooth: bool, side: int = 28, channels: int = 64) -> tuple[Tensor, Tensor]:
    """Two unit-length feature maps [1, C, side, side], the second showing the first moved by (x, y) cells."""
    generator = torch.Generator().manual_seed(3)
    margin = 10
    big = torch.randn(1, channels, side + 2 * margin, side + 2 * margin, generator=generator)
    if smooth:
        big = F.avg_pool2d(big, 3, stride=1, padding=1)
    big = F.normalize(big, dim=1)
    x, y = shift
    first = big[:, :, margin : margin + side, margin : margin + side]
    second = big[:, :, margin - y : margin - y + side, margin - x : margin - x + side]
    return first, second


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("shift", [(0, 0), (1, 0), (0, -2), (3, 2), (-5, 4), (7, -7), (-7, 7)])
def test_known_displacements_are_found(shift: tuple[int, int], smooth: bool, form: Any) -> None:
    first, second = maps(shift, smooth=smooth)
    displacement, confidence = soft_argmax(correlate(first, second, 15, form).relu())
    inside = (slice(None), slice(None), slice(7, -7), slice(7, -7))
    error = displacement[inside] - torch.tensor(shift, dtype=torch.float32).view(1, 2, 1, 1)
    assert error.abs().max() < 0.25
    assert confidence[inside].min() > 0.99
    unrelated, _ = maps(shift, smooth=smooth)
    _, doubt = soft_argmax(correlate(unrelated.roll(1, dims=1), second, 15, form).relu())
    assert doubt[inside].mean() < 0.7 * confidence[inside].mean()


@pytest.mark.parametrize("window", [1, 3, 7, 15])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (4, 9), (13, 5)])
def test_both_forms_equal_the_definition(window: int, height: int, width: int) -> None:
    torch.manual_seed(0)
    first, second = torch.randn(2, 2, 5, height, width, dtype=torch.float64)
    expected = torch.zeros(2, height, width, window, window, dtype=torch.float64)
    for y in range(height):
        for x in range(width):
            for i in range(window):
                for j in range(window):
                    v, u = y + i - window // 2, x + j - window // 2
                    if 0 <= v < height and 0 <= u < width:
                        expected[:, y, x, i, j] = (first[:, :, y, x] * second[:, :, v, u]).sum(dim=1)
    for form in FORMS:
        torch.testing.assert_close(correlate(first, second, window, form), expected)


@given(
    st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3, 5, 9]), st.integers(0, 2**31 - 1)
)
def test_soft_argmax_stays_inside_the_window(count: int, height: int, width: int, window: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    similarity = torch.rand(count, height, width, window, window, generator=generator)
    displacement, confidence = soft_argmax(similarity)
    assert displacement.shape == (count, 2, height, width)
    assert displacement.abs().max() <= window // 2 + 1e-4
    torch.testing.assert_close(confidence[:, 0], similarity.flatten(3).amax(dim=3))


def test_nothing_alike_means_no_displacement() -> None:
    displacement, confidence = soft_argmax(torch.zeros(1, 2, 2, 15, 15))
    torch.testing.assert_close(displacement, torch.zeros_like(displacement))
    assert not confidence.any()


def test_a_far_second_peak_does_not_pull() -> None:
    similarity = torch.zeros(1, 1, 1, 15, 15)
    similarity[..., 7, 1], similarity[..., 7, 13] = 1.0, 0.999
    assert soft_argmax(similarity)[0][0, 0].item() == pytest.approx(-6, abs=0.01)
    assert soft_argmax(similarity, sigma=1e6)[0][0, 0].item() == pytest.approx(-0.3, abs=0.1)


@pytest.mark.parametrize("form", FORMS)
def test_gradients_by_finite_differences(form: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import coviar_mocrop.networks.motion_squeeze as module

    monkeypatch.setattr(module, "correlate", lambda a, b, window: correlate(a, b, window, form))
    torch.manual_seed(1)
    squeeze = MotionSqueeze(2, width=4, window=3).double().eval()
    features = torch.randn(3, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: squeeze(x, 3), (features,))
    assert torch.autograd.gradcheck(lambda x: squeeze.estimate(x, 3), (features,))


@pytest.mark.parametrize("frames", [2, 3, 8])
def test_the_last_step_serves_twice_and_clips_stay_apart(frames: int) -> None:
    torch.manual_seed(0)
    squeeze = MotionSqueeze(8, width=8, window=5).eval()
    features = torch.randn(2 * frames, 8, 6, 7)
    with torch.no_grad():
        motion = squeeze(features, frames) - features
        alone = torch.cat([squeeze(clip, frames) for clip in features.chunk(2)]) - features
    torch.testing.assert_close(motion[frames - 1], motion[frames - 2])
    torch.testing.assert_close(motion, alone, atol=1e-5, rtol=1e-4)


def test_what_cannot_be_is_told() -> None:
    with pytest.raises(ModelError, match="2 or more, not 1"):
        MotionSqueeze(8)(torch.randn(2, 8, 4, 4), 1)
    with pytest.raises(ModelError, match="odd"):
        MotionSqueeze(8, window=4)
    with pytest.raises(ModelError, match=r"mobilenet_v3_small.*resnet50"):
        create_network(3, 5, ModelConfig(backbone="mobilenet_v3_small", temporal="shift"))
    with pytest.raises(ModelError, match="motion_squeeze=true"):
        create_network(3, 5).displacement(torch.randn(1, 2, 3, 32, 32))


def test_numbers_hold_under_autocast() -> None:
    torch.manual_seed(0)
    squeeze = MotionSqueeze(8, width=16, window=5).eval()
    features = torch.randn(4, 8, 9, 9)
    with torch.no_grad():
        expected, _ = squeeze.estimate(features, 2)
        with torch.autocast("cpu", torch.bfloat16):
            displacement, _ = squeeze.estimate(features, 2)
            assert squeeze(features.bfloat16(), 2).dtype == torch.bfloat16
            precise = correlate(features[:2], features[2:], 5, "pairs")
    assert displacement.dtype == torch.float32
    assert (displacement - expected).abs().median() < 0.05  # the convolution alone is rounded
    torch.testing.assert_close(precise, correlate(features[:2], features[2:], 5, "window"), atol=1e-5, rtol=1e-5)


@pytest.mark.slow  # compiles
@pytest.mark.parametrize("form", FORMS)
def test_compilers_take_it(form: Any) -> None:
    torch.manual_seed(0)
    side = 6 if form == "pairs" else 9
    squeeze = MotionSqueeze(8, width=8, window=7).eval()
    features = torch.randn(6, 8, side, side)
    with torch.no_grad():
        expected = squeeze(features, 3)
        compiled = torch.compile(squeeze, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(features, 3), expected, atol=1e-5, rtol=1e-4)
        batch = torch.export.Dim("batch", min=2, max=64)
        exported = torch.export.export(
            squeeze, (features, 3), dynamic_shapes={"features": {0: 3 * batch}, "frames": None}
        )
        more = torch.randn(12, 8, side, side)
        torch.testing.assert_close(exported.module()(more, 3), squeeze(more, 3), atol=1e-5, rtol=1e-4)


def test_checkpointing_gives_the_same_gradients() -> None:
    torch.manual_seed(0)
    squeeze = MotionSqueeze(8, width=8, window=5).eval()
    features = torch.randn(4, 8, 6, 6, requires_grad=True)
    (plain,) = torch.autograd.grad(squeeze(features, 2).square().sum(), features)
    again = checkpoint(squeeze, features, 2, use_reentrant=False)
    assert isinstance(again, Tensor)
    (recomputed,) = torch.autograd.grad(again.square().sum(), features)
    torch.testing.assert_close(plain, recomputed)


def test_temporal_shift_moves_an_eighth_each_way() -> None:
    features = torch.arange(2 * 3 * 16.0).reshape(6, 16, 1, 1) + 1
    shifted = temporal_shift(features, 3).reshape(2, 3, 16)
    before = features.reshape(2, 3, 16)
    torch.testing.assert_close(shifted[:, :2, :2], before[:, 1:, :2])
    torch.testing.assert_close(shifted[:, 1:, 2:4], before[:, :2, 2:4])
    torch.testing.assert_close(shifted[:, :, 4:], before[:, :, 4:])
    assert not shifted[:, 2, :2].any()
    assert not shifted[:, 0, 2:4].any()
    pictures = torch.randn(4, 8, 5, 5).contiguous(memory_format=torch.channels_last)
    assert temporal_shift(pictures, 2).is_contiguous(memory_format=torch.channels_last)


def test_off_is_the_network_without_them_weight_for_weight() -> None:
    torch.manual_seed(0)
    bare = create_backbone("resnet18", 5).net.eval()
    torch.manual_seed(0)
    off = create_network(3, 5, ModelConfig(temporal="none", motion_squeeze=False)).eval()
    state = {f"backbone.{name}": value for name, value in bare.state_dict().items()}
    assert list(off.state_dict()) == list(state)
    assert all(torch.equal(value, state[name]) for name, value in off.state_dict().items())
    clips = torch.randn(2, 3, 3, 48, 48)
    with torch.no_grad():
        expected = bare(clips.flatten(0, 1))
        assert torch.equal(off(clips), expected.unflatten(0, (2, 3)).mean(dim=1))
    torch.manual_seed(0)
    on = create_network(3, 5, ModelConfig(temporal="shift", motion_squeeze=True))
    assert all(torch.equal(on.state_dict()[name], value) for name, value in state.items())
    assert all(name in state or name.startswith("motion_squeeze.") for name in on.state_dict())


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
def test_without_neighbours_the_clip_network_is_the_frame_network(backbone: str) -> None:
    """Running the stages by hand changes nothing: a clip of one frame, nothing shifted away."""
    from coviar_mocrop.networks import temporal

    torch.manual_seed(0)
    stream = create_network(3, 5, ModelConfig(backbone=backbone, temporal="shift")).eval()
    frames = torch.randn(2, 3, 64, 64)
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(temporal, "temporal_shift", lambda features, length: features)
        torch.testing.assert_close(stream.frame_logits(frames), stream.backbone(frames))


@pytest.mark.parametrize("options", [{"temporal": "shift"}, {"motion_squeeze": True}])
def test_frames_see_their_neighbours_but_never_another_view(options: Any) -> None:
    torch.manual_seed(0)
    stream = create_network(3, 5, ModelConfig(**options)).eval()
    views = torch.randn(2, 3, 4, 3, 64, 64)
    with torch.no_grad():
        together = stream(views)
        apart = torch.stack([stream(views[:, view]) for view in range(3)]).mean(dim=0)
        torch.testing.assert_close(together, apart, atol=1e-5, rtol=1e-4)
        backwards = stream(views[:, 0].flip(1))
    assert not torch.allclose(backwards, stream(views[:, 0]), atol=1e-4)


def test_gradients_reach_the_backbone_through_the_motion() -> None:
    torch.manual_seed(0)
    stream = create_network(3, 5, ModelConfig(motion_squeeze=True)).train()
    displacement, confidence = stream.displacement(torch.randn(1, 3, 3, 64, 64))
    assert displacement.shape == (1, 2, 2, 8, 8)
    assert confidence.shape == (1, 2, 1, 8, 8)
    displacement.square().sum().backward()
    gradient = stream.get_parameter("backbone.conv1.weight").grad
    assert gradient is not None
    assert gradient.isfinite().all()
    assert gradient.any()
    stream(torch.randn(2, 3, 3, 64, 64)).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in stream.parameters())


class Correlation(nn.Module):
    """The correlation alone, of a map with itself."""

    def forward(self, features: Tensor) -> Tensor:
        from coviar_mocrop.networks import motion_squeeze

        return motion_squeeze.correlate(features, features, 15)


@pytest.mark.parametrize("side", [14, 28])
def test_either_form_is_counted_by_its_definition(side: int) -> None:
    assert count_flops(Correlation(), (7, 64, side, side)) == 7 * 64 * side**2 * 15**2


def test_published_cost_of_a_clip() -> None:
    """TSM-ResNet-50 with 8 frames: about 33, with MotionSqueeze about 34 GFLOPs."""
    with torch.device("meta"):
        plain, squeezed = (
            create_network(3, 101, ModelConfig(backbone="resnet50", temporal="shift", motion_squeeze=on))
            for on in (False, True)
        )
    before, after = (count_flops(net, (1, 8, 3, 224, 224)) / 1e9 for net in (plain, squeezed))
    assert before == pytest.approx(33, rel=0.02)
    assert after == pytest.approx(34, rel=0.02)
    # what is added: 512 -> 64 channels on 8 frames; of 7 pairs the window, and four depthwise and pointwise steps
    reduce = 8 * 784 * (512 * 64 + 2 * 64)
    window = 7 * 784 * 225 * 64
    refine = 7 * 784 * (3 * 49 + 9 * (16 + 32 + 64) + 3 * 16 + 16 * 32 + 32 * 64 + 64 * 512 + 2 * (16 + 32 + 64 + 512))
    assert after - before == pytest.approx((reduce + window + refine) / 1e9, rel=1e-6)
