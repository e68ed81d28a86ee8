"""Settings: composition, overrides, errors that name key, place and remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from coviar_mocrop.config import load_config
from coviar_mocrop.errors import ConfigError

CONFIGS = Path(__file__).parent.parent / "configs"
RECIPES = {  # CoViAR's: learning rate, epochs, steps
    "ucf101/iframe": (3e-4, 510, (150, 270, 390)),
    "ucf101/mv": (1e-2, 510, (150, 270, 390)),
    "ucf101/residual": (5e-3, 510, (150, 270, 390)),
    "hmdb51/iframe": (3e-4, 220, (55, 110, 165)),
    "hmdb51/mv": (5e-3, 360, (120, 200, 280)),
    "hmdb51/residual": (1e-3, 300, (120, 180, 240)),
}


@pytest.mark.parametrize("name", RECIPES)
def test_coviars_recipes(name: str) -> None:
    config = load_config(CONFIGS / f"{name}.yaml")
    assert (config.train.lr, config.train.epochs, config.train.steps) == RECIPES[name]
    assert (config.train.eps, config.train.weight_decay, config.train.optimizer) == (1e-3, 1e-4, "adam")
    iframe = name.endswith("iframe")
    assert config.model.backbone == ("resnet152" if iframe else "resnet18")
    assert config.train.rate_factors.model_dump() == {"classifier": 1, "stem": 0.01 if iframe else 0.1, "rest": 0.01}
    assert (config.input.segments, config.input.test_segments, config.input.test_crops) == (3, 25, 10)
    assert (min(config.input.scales) == 0.66) == iframe


@pytest.mark.parametrize(
    "path", sorted(CONFIGS.glob("*/[imrcz]*.yaml")), ids=lambda path: f"{path.parent.name}-{path.stem}"
)
def test_every_config_loads_in_every_setting(path: Path) -> None:
    for setting, crops in (("baseline", False), ("efficiency", True), ("attention", True)):
        config = load_config(path, [f"setting={setting}"])
        assert path.stem.startswith(config.stream)
        assert config.crops == crops
        assert config.size == (config.input.reduced_size if setting == "efficiency" else config.input.full_size)


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_bases_merge_section_by_section_and_overrides_come_last(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", "data: {classes: c, root: r}\ntrain: {lr: 0.1, epochs: 3}\n")
    write(tmp_path / "b.yaml", "train: {lr: 0.2}\n")
    top = write(tmp_path / "top.yaml", "base: [a.yaml, b.yaml]\nstream: mv\ntrain: {steps: [1]}\n")
    config = load_config(top, ["train.epochs=9", "input.scales=[1.0]", "mocrop.area_ratio=0.4"])
    assert (config.train.lr, config.train.epochs, config.train.steps) == (0.2, 9, (1,))
    assert (config.data.root, config.input.scales, config.mocrop.area_ratio) == ("r", (1.0,), 0.4)


@pytest.mark.parametrize(
    ("text", "overrides", "says"),
    [
        (
            "stream: mv\ndata: {classes: c}\ntrain: {epocs: 3}",
            [],
            r"c\.yaml: unknown key 'train\.epocs'.*'train\.epochs'",
        ),
        ("stream: mv\ndata: {classes: c}", ["input.full_sise=3"], "--set input.full_sise=3: .*'input.full_size'"),
        ("stream: mv\ndata: {classes: c}", ["zzz=3"], "unknown key 'zzz'; valid: .*train"),
        ("stream: mv\ndata: {classes: c}", ["train.lr=-1"], "'train.lr' is -1; .*greater than 0"),
        ("stream: mv\ndata: {classes: c}", ["train=3"], "'train' is 3; it is a section"),
        (
            "stream: mv\ndata: {classes: c}",
            ["mocrop.area_ratio=7"],
            "'mocrop.area_ratio' is 7; .*less than or equal to 1",
        ),
        ("stream: mv\ndata: {classes: c}", ["nonsense"], "expected key=value"),
        ("stream: mv\ndata: {classes: c}", ["a=[1"], "is not YAML"),
        ("data: {classes: c}", [], "'stream' is missing"),
        ("stream: [1", [], r"c\.yaml: is not YAML"),
        ("- a\n- b", [], "expected 'key: value' lines"),
        ("base: c.yaml", [], "builds on itself"),
        ("base: none.yaml", [], r"none\.yaml: no such configuration file \(.*c\.yaml builds on it"),
        ("base: .", [], "is a folder; give a YAML file"),
        ("stream: mv\ndata: {classes: c}", ["setting=eficiency"], "did you mean 'efficiency'"),
        ("stream: !!python/object/apply:os.system ['true']", [], "is not YAML"),
    ],
)
def test_one_line_that_names_key_place_and_remedy(tmp_path: Path, text: str, overrides: list[str], says: str) -> None:
    path = write(tmp_path / "c.yaml", text)
    with pytest.raises(ConfigError, match=says) as caught:
        load_config(path, overrides)
    assert "\n" not in str(caught.value)


def test_a_mistake_in_a_base_names_the_base(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", "train: {epocs: 3}\ndata: {classes: c}\n")
    top = write(tmp_path / "top.yaml", "base: base.yaml\nstream: mv\n")
    with pytest.raises(ConfigError, match=r"base\.yaml: unknown key"):
        load_config(top)


def test_what_knows_of_time_asks_for_what_it_needs() -> None:
    demo = CONFIGS / "demo"
    config = load_config(demo / "iframe_motion_squeeze.yaml")
    assert (config.kind, config.model.motion_squeeze, config.input.segments) == ("frame", True, 8)
    assert load_config(demo / "iframe.yaml").kind == "iframe"
    with pytest.raises(ConfigError, match=r"model\.motion_squeeze compares .* set input\.segments") as caught:
        load_config(demo / "iframe_motion_squeeze.yaml", ["input.test_segments=1"])
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match=r"input\.frames=decoded is for the I-frame stream; this is the mv stream"):
        load_config(demo / "mv.yaml", ["input.frames=decoded"])
