"""CLIP's wrapper, the fusion head, prompts and zero-shot, without videos."""

from __future__ import annotations

import builtins
import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clip_stream import TINY_CLIP
from clips import texture
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from coviar_mocrop.clips.resize import resize
from coviar_mocrop.clips.windows import middle_square
from coviar_mocrop.datasets.lists import read_classes
from coviar_mocrop.errors import CheckpointError, ConfigError, ModelError
from coviar_mocrop.mocrop import CropBox
from coviar_mocrop.networks.clip import CLIPEncoder, class_features, feature_dim
from coviar_mocrop.networks.config import CLIPConfig, ModelConfig
from coviar_mocrop.networks.fusion_head import CLIPFusionHead, MotionEncoder, ZeroShotHead
from coviar_mocrop.networks.prompts import TEMPLATES, read_prompts, words_of
from coviar_mocrop.networks.stream_net import StreamNet, create_network

ROOT = Path(__file__).parent.parent
tiny = CLIPConfig(model=TINY_CLIP, pretrained=None)


def motion_network(classes: int, config: ModelConfig) -> StreamNet:
    return create_network(2, classes, config, input_norm=True).eval()


# -- the encoder ---------------------------------------------------------------------------------------------


def test_without_open_clip_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = builtins.__import__

    def refuse(name: str, *rest: Any) -> Any:
        if name.split(".")[0] == "open_clip":
            raise ImportError("No module named 'open_clip'")
        return plain(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ModelError, match=r"pip install .*\[clip\]'?$") as caught:
        CLIPEncoder(tiny)
    assert "\n" not in str(caught.value)


def test_random_weights_follow_from_the_seed_and_disturb_nothing() -> None:
    pytest.importorskip("open_clip")
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first = CLIPEncoder(tiny, seed=0)
    assert torch.equal(torch.rand(3), expected)
    again, other = CLIPEncoder(tiny, seed=0), CLIPEncoder(tiny, seed=1)
    assert first.digest == again.digest != other.digest
    assert (first.dim, first.size) == (24, 32)
    assert feature_dim(tiny) == 24
    pixels = first.normalise(torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8))
    with torch.no_grad():
        assert torch.equal(first(pixels), again(pixels))
    assert not first.train().training
    assert not any(parameter.requires_grad for parameter in first.parameters())


@pytest.mark.parametrize("size", [(256, 340), (240, 320), (121, 97), (20, 24)])
def test_preprocessing_of_a_box_is_that_of_open_clip(size: tuple[int, int]) -> None:
    open_clip = pytest.importorskip("open_clip")
    encoder, picture, box = CLIPEncoder(tiny), texture(*size, seed=1), CropBox(0.1, 0.2, 0.8, 0.95)
    published = open_clip.get_model_preprocess_cfg(encoder.model)
    (window,) = middle_square(size, box)
    pixels = resize(picture[None], window[:4], encoder.size, encoder.resample)
    transform = open_clip.image_transform(
        published["size"], is_train=False, resize_mode="squash", interpolation=published["interpolation"]
    )
    expected = transform(Image.fromarray(picture[window.top : window.bottom, window.left : window.right]))
    torch.testing.assert_close(encoder.normalise(torch.from_numpy(pixels))[0], expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("size", [(256, 340), (240, 320), (480, 640), (121, 97)])
def test_preprocessing_of_the_middle_square_is_close_to_that_of_open_clip(size: tuple[int, int]) -> None:
    """It rounds the size of the whole picture and then takes the middle, which shifts it by up to a pixel of 224."""
    open_clip = pytest.importorskip("open_clip")
    picture = texture(*size, seed=1, grain=12)
    transform = open_clip.image_transform((224, 224), is_train=False, mean=(0, 0, 0), std=(1, 1, 1))
    theirs = 255 * transform(Image.fromarray(picture)).numpy()
    (window,) = middle_square(size)
    ours = resize(picture[None], window[:4], 224, "bicubic")[0].astype(np.float64)
    assert np.abs(ours - theirs).mean() < 4  # grey levels, of 255
    assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.996


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_local_weights(tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("open_clip")
    source = CLIPEncoder(tiny, seed=3)
    path = tmp_path / f"w{suffix}"
    state = {name: value.clone() for name, value in source.model.state_dict().items()}
    if suffix == ".pt":
        torch.save(state, path)
    else:
        from safetensors.torch import save_file

        save_file(state, path)
    loaded = CLIPEncoder(tiny.model_copy(update={"pretrained": str(path)}), seed=9)
    assert loaded.digest == source.digest

    wider = copy.deepcopy(TINY_CLIP)
    wider["vision_cfg"]["layers"] = 3
    with pytest.raises(CheckpointError, match="does not fit the CLIP") as caught:
        CLIPEncoder(CLIPConfig(model=wider, pretrained=str(path)))
    assert "\n" not in str(caught.value)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=path.name):
        CLIPEncoder(tiny.model_copy(update={"pretrained": str(path)}))


class Malicious:
    """Pickles into a call."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.target,))


def test_malicious_weights_run_nothing(tmp_path: Path) -> None:
    pytest.importorskip("open_clip")
    torch.save({"state_dict": Malicious(tmp_path / "executed")}, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match="safe"):
        CLIPEncoder(tiny.model_copy(update={"pretrained": str(tmp_path / "w.pt")}))
    assert not (tmp_path / "executed").exists()


def test_a_tag_that_cannot_be_downloaded_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("open_clip")
    import open_clip.factory

    def fail(*_: Any, **__: Any) -> str:
        raise FileNotFoundError("no route to host\nand more")

    monkeypatch.setattr(open_clip.factory, "download_pretrained", fail)
    with pytest.raises(ModelError, match=r"'openai' of CLIP ViT-B-32 .*path of the file in clip\.pretrained") as caught:
        CLIPEncoder(CLIPConfig())
    assert "\n" not in str(caught.value)


def test_published_weights_get_the_activation_they_were_trained_with(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("open_clip")
    import open_clip

    asked: dict[str, Any] = {}

    def note(name: str, **more: Any) -> Any:
        asked.update(more, name=name)
        raise RuntimeError("enough")

    monkeypatch.setattr(open_clip, "create_model", note)
    for tag, quick in (("openai", True), ("laion2b_s34b_b79k", False)):
        with pytest.raises(ModelError):
            CLIPEncoder(CLIPConfig(pretrained=tag))
        assert (asked["name"], asked["force_quick_gelu"], asked["weights_only"]) == ("ViT-B-32", quick, True)


# -- the head ------------------------------------------------------------------------------------------------


def test_the_head_of_the_paper() -> None:
    motion = MotionEncoder(motion_network(101, ModelConfig(backbone="efficientnet_b0", dropout=0.3)))
    net = CLIPFusionHead(CLIPConfig(), 101, 512, motion)
    assert motion.dim == 1280
    assert sum(parameter.numel() for parameter in net.parameters() if parameter.requires_grad) == 969829
    assert [type(layer).__name__ for layer in net.head] == ["Linear", "ReLU", "Dropout", "Linear"]
    assert net.head[2].p == 0.5
    assert net.get_submodule(net.classifier_name) is net.head[3]


@pytest.mark.parametrize("backbone", ["resnet18", "squeezenet1_1", "mobilenet_v3_small"])
def test_motion_features_are_what_the_classifier_got(backbone: str) -> None:
    stream = motion_network(5, ModelConfig(backbone=backbone))
    got: list[torch.Tensor] = []
    handle = stream.get_submodule(stream.classifier_name).register_forward_pre_hook(
        lambda _, inputs: got.append(inputs[0])
    )
    clips = torch.randn(2, 1, 3, 2, 64, 64)  # one view of three segments
    with torch.no_grad():
        stream(clips)
        handle.remove()
        encoder = MotionEncoder(stream)
        features = encoder(clips)
    assert features.shape == (2, encoder.dim)
    expected = got[0].flatten(1)
    if backbone == "squeezenet1_1":  # its classifier is a convolution, with activation and pooling behind it
        expected = torch.relu(got[0]).mean(dim=(2, 3))
    torch.testing.assert_close(features, expected.reshape(2, 3, -1).mean(dim=1), atol=1e-4, rtol=1e-4)


def test_standardising_is_what_the_first_layer_could_absorb() -> None:
    net = CLIPFusionHead(CLIPConfig(hidden=16), 4, 6, None).eval()
    features = torch.randn(50, 6) * torch.tensor([1, 10, 0.1, 5, 1, 0]) + torch.tensor([3, 0, 1, -9, 0, 2.0])
    net.fit(features, "")
    inside = (features - net.mean) / net.deviation
    torch.testing.assert_close(inside.mean(dim=0), torch.zeros(6), atol=1e-4, rtol=0)
    torch.testing.assert_close(inside[:, :5].std(dim=0, correction=0), torch.ones(5), atol=1e-4, rtol=0)
    assert net.deviation[5] == 1  # a feature that never changes
    plain = CLIPFusionHead(CLIPConfig(hidden=16, standardise=False), 4, 6, None).eval()
    plain.fit(features, "")
    weight, bias = net.head[0].weight / net.deviation, net.head[0].bias
    plain.head.load_state_dict(net.head.state_dict())
    plain.head[0].weight.data, plain.head[0].bias.data = weight.data, (bias - weight @ net.mean).data
    with torch.no_grad():
        torch.testing.assert_close(plain(features), net(features), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("config", [{"temporal": "shift"}, {"motion_squeeze": True}])
def test_a_motion_network_over_time_sees_whole_clips(config: dict[str, Any]) -> None:
    stream = motion_network(5, ModelConfig(**config))
    classifier = copy.deepcopy(stream.get_submodule(stream.classifier_name))
    clips = torch.randn(2, 2, 4, 2, 64, 64)  # two views of four segments
    with torch.no_grad():
        expected = stream(clips)
        encoder = MotionEncoder(stream)
        torch.testing.assert_close(classifier(encoder(clips)), expected, atol=1e-4, rtol=1e-4)
        shuffled = encoder(clips[:, :, [2, 0, 3, 1]])
    assert not torch.equal(shuffled, encoder(clips))  # the order of the segments matters


# -- prompts and zero-shot -----------------------------------------------------------------------------------


def toy_encoder(texts: Sequence[str]) -> torch.Tensor:
    """Counts of letters, of any length but 1."""
    return torch.tensor([[float(text.count(letter)) for letter in "abcdefg"] for text in texts]) * 3


def test_zero_shot_by_hand_on_a_toy_text_encoder() -> None:
    prompts = [["aab", "b"], ["ccc"], ["abc", "d", "g"]]
    texts = class_features(prompts, toy_encoder)
    first = torch.tensor([2.0, 1, 0]) / 5**0.5 + torch.tensor([0.0, 1, 0])
    torch.testing.assert_close(texts[0, :3], first / first.norm())
    torch.testing.assert_close(texts.norm(dim=1), torch.ones(3))
    net = ZeroShotHead(texts)
    features = torch.stack([7 * texts[2], torch.tensor([0.0, 0, 2, 0, 0, 0, 0])])
    logits = net(features)
    assert logits[0, 2] == pytest.approx(100, abs=1e-3)
    assert logits[1].tolist() == pytest.approx([0, 100, 100 * float(texts[2, 2])], abs=1e-3)
    assert logits.argmax(dim=1).tolist() == [2, 1]
    assert not list(net.parameters())


@pytest.mark.parametrize("data_set", ["ucf101", "hmdb51"])
def test_our_prompts_name_every_class(data_set: str) -> None:
    classes = read_classes(ROOT / f"data_lists/{data_set}/classes.txt")
    prompts = read_prompts(ROOT / f"configs/prompts/{data_set}.yaml", classes)
    assert len(prompts) == len(classes)
    everything = [prompt for texts in prompts for prompt in texts]
    assert len(set(everything)) == len(everything)  # no two classes say the same
    assert not any("{" in prompt or "_" in prompt for prompt in everything)


def test_words_of_class_names() -> None:
    for name, words in {
        "ApplyEyeMakeup": "apply eye makeup",
        "brush_hair": "brush hair",
        "TVShow2": "tv show 2",
        "YoYo": "yo yo",
        "MañanaÜber": "mañana über",
        "a-b c": "a b c",
        "__": "__",
    }.items():
        assert words_of(name) == words


@given(st.lists(st.sampled_from(["Walk", "Dog", "Ride", "Horse", "Up"]), min_size=1, max_size=4))
def test_camel_case_and_underscores_say_the_same(words: list[str]) -> None:
    expected = " ".join(words).lower()
    assert words_of("".join(words)) == words_of("_".join(words)) == words_of("-".join(words).lower()) == expected


def test_prompt_files(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("templates: ['a {}', '{} now']\nnames: {Jump: [jumping, 2024-02-30], Run: to run}")
    assert read_prompts(path, ["Jump", "Run", "SitDown"]) == [
        ["a jumping", "jumping now", "a 2024-02-30", "2024-02-30 now"],
        ["a to run", "to run now"],
        ["a sit down", "sit down now"],
    ]
    assert read_prompts(None, ["SitDown"]) == [[template.format("sit down") for template in TEMPLATES]]
    for text, words in {
        "names: {Jmp: x}": "'Jmp', which is not a class; did you mean Jump",
        "templates: [a photo]": "must hold {} once",
        "templates: []": "templates must be",
        "name: {}": "unknown key 'name'",
        "names: {Jump: [yes]}": r"names\.Jump must be a text",
        "- a": "expected the keys",
        "names: [": "is not YAML",
        "[" * 1100: "is not YAML",
    }.items():
        path.write_text(text)
        with pytest.raises(ConfigError, match=words) as caught:
            read_prompts(path, ["Jump"])
        assert "p.yaml" in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="no such prompt file"):
        read_prompts(tmp_path / "none.yaml", ["Jump"])
