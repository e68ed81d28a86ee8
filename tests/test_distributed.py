"""Two and three processes give what one gives."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from demo import demo_settings, outcome, same, torchrun

from coviar_mocrop.clips.loading import TestingSampler, TrainingSampler
from coviar_mocrop.config import Config
from coviar_mocrop.datasets.demo import make_demo
from coviar_mocrop.inference.testing import score_checkpoint
from coviar_mocrop.networks.stream_net import StreamNet
from coviar_mocrop.scores import load_scores
from coviar_mocrop.training.trainer import train

pytestmark = pytest.mark.usefixtures("no_figures")
TOOLS = Path(__file__).parent.parent / "tools"
STREAMS = ("mv", "residual")
# Adam's first steps are as long for a gradient that is rounding noise as for any other, so it would amplify the noise
_OPTIMIZER = {"optimizer": "sgd", "lr": 0.0005}
_SYNC_BN_ON_CPUS = f"""
import json, signal, os, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import sync_norm
import coviar_mocrop.training.setup as setup
import coviar_mocrop.training.trainer as trainer
from coviar_mocrop.config import load_configs
setup.convert_batch_norms = sync_norm.convert_batch_norms
"""


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    make_demo(folder / "videos", folder / "lists", train_clips=16, test_clips=8, progress=False)
    names = (folder / "lists/test_split1.txt").read_text().splitlines()
    (folder / "lists/test_split1.txt").write_text("\n".join(names[:7]) + "\n")  # 7 clips divide by neither 2 nor 3
    return folder


def settings_of(demo: Path, output: Path, **train_settings: Any) -> dict[str, Any]:
    return demo_settings(
        demo,
        output,
        setting="attention",
        input={"full_size": 48, "segments": 1, "test_segments": 2},
        model={"backbone": "shufflenet_v2_x0_5"},  # no dropout, which differs by process
        # 16 clips in steps of 6, 5 and 5
        train={**_OPTIMIZER, "epochs": 3, "batch_size": 6, "test_batch_size": 2, "precision": "fp32", **train_settings},
    )


def write_settings(path: Path, values: dict[str, Any]) -> Path:
    """A settings file of two streams."""
    shared = {key: value for key, value in values.items() if key != "stream"}
    path.write_text(json.dumps({**shared, "streams": dict.fromkeys(STREAMS)}))  # JSON is YAML
    return path


def train_alone(demo: Path, output: Path, **train_settings: Any) -> Path:
    """The checkpoint of a motion stream that was trained in this process."""
    config = Config.model_validate(settings_of(demo, output, **train_settings))
    return train({"mv": config})["mv"]


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def alone(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a run on one process."""
    return train_alone(demo, tmp_path_factory.mktemp("alone"), val_every=1)


@pytest.mark.slow
def test_two_processes_learn_what_one_does(demo: Path, alone: Path, tmp_path: Path) -> None:
    """Two streams together; once more, interrupted within an epoch and resumed."""
    script = tmp_path / "train.py"
    script.write_text(
        f"{_SYNC_BN_ON_CPUS}"
        "step, calls = trainer.train_step, []\n"
        "def interrupt(*arguments):\n"
        "    calls.append(1)\n"
        "    if len(calls) == int(sys.argv[2]): os.kill(os.getpid(), signal.SIGINT)\n"
        "    step(*arguments)\n"
        "trainer.train_step = interrupt\n"
        "configs = load_configs(sys.argv[1], output=sys.argv[3])\n"
        "try: trainer.train(configs, resume=True)\n"
        "except trainer.Interrupted as problem: print(problem)\n"
    )
    config = write_settings(tmp_path / "c.yaml", settings_of(demo, tmp_path, val_every=1, sync_bn=True))
    done = torchrun(2, script, config, 0, tmp_path / "whole")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("mv epoch 1/3: loss") + done.stdout.count("mv epoch 1/3: loss") == 1
    # roughly, because rounding grows over time; in double precision, below, to the last digits
    np.testing.assert_allclose(losses(tmp_path / "whole/mv")[0], losses(alone.parent)[0], rtol=1e-2)
    np.testing.assert_allclose(losses(tmp_path / "whole/mv"), losses(alone.parent), rtol=0.1)
    facts = json.loads((tmp_path / "whole/mv/run.json").read_text())["parts"]
    assert facts[0]["processes"] == 2
    done = torchrun(2, script, config, 9, tmp_path / "parts")  # in the fifth step, of 3 an epoch
    assert "stopped in epoch 2, after step 2: " in done.stdout, done.stderr
    done = torchrun(2, script, config, 0, tmp_path / "parts")
    assert done.returncode == 0, done.stderr
    for name in STREAMS:
        assert same(outcome(tmp_path / "parts" / name), outcome(tmp_path / "whole" / name))


@pytest.mark.slow
def test_in_double_precision_two_processes_are_one(demo: Path, tmp_path: Path) -> None:
    """In float32 a rounding error flips a ReLU now and then; here nothing hides a wrong factor."""
    script = tmp_path / "double.py"
    script.write_text(
        f"{_SYNC_BN_ON_CPUS}"
        "import torch\n"
        "from coviar_mocrop.runtime import process_group\n"
        "from coviar_mocrop.streams import mv, residual\n"
        "from coviar_mocrop.training.steps import read_steps, sync_step\n"
        "torch.set_default_dtype(torch.float64)\n"
        "for stream in (mv.MotionStream, residual.ResidualStream):\n"
        "    stream.normalise = lambda self, pixels: pixels.double() / 255 - 0.5\n"
        "losses = []\n"
        "with process_group() as group:\n"
        "    run = setup.prepare(load_configs(sys.argv[1]), group)\n"
        "    names, parts = [t.stream.name for t in run.trainers], run.trainers[0].config.train.accumulate\n"
        "    for run.sampler.epoch in (0, 1):\n"
        "        for read in read_steps(run.loader, parts):\n"
        "            synced = sync_step(group, read, names, parts, stop=False, save=False)\n"
        "            for t in run.trainers:\n"
        "                trainer.train_step(t, synced.batches[t.stream.name], synced.clips[t.stream.name], group)\n"
        "                t.scheduler.step()\n"
        "                losses.append(t.state.metrics.reduce(group).loss)\n"
        "    if group.is_main: json.dump(losses, open(sys.argv[2], 'w'))\n"
    )
    values = settings_of(demo, tmp_path / "run", sync_bn=True, grad_clip=1.0)
    config = write_settings(tmp_path / "c.yaml", values)
    curves = []
    for processes in (1, 2):
        done = torchrun(processes, script, config, tmp_path / f"{processes}.json")
        assert done.returncode == 0, done.stderr
        curves.append(json.loads((tmp_path / f"{processes}.json").read_text()))
    assert len(curves[0]) == 12
    np.testing.assert_allclose(curves[0], curves[1], rtol=1e-9)


@pytest.mark.slow  # long trainings
def test_micro_batches_make_the_same_step(demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With BatchNorm at rest, micro-batches change nothing but rounding."""
    monkeypatch.setattr(StreamNet, "train", lambda self, mode=True: torch.nn.Module.train(self, False))
    curves = []
    for parts in (1, 3):
        train_alone(demo, tmp_path / str(parts), accumulate=parts, epochs=2)
        curves.append(losses(tmp_path / str(parts)))
    # 16 clips are 6 + 5 + 5: in three parts the last step is 2 + 2 + 1
    np.testing.assert_allclose(curves[0], curves[1], rtol=1e-4)
    assert len(set(curves[0])) == 2  # the weights did move


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_scores_are_the_same_bits_on_any_number(demo: Path, alone: Path, tmp_path: Path, processes: int) -> None:
    out = tmp_path / "s.npz"
    # nothing cached: the boxes are found by these processes too
    done = torchrun(
        *(processes, TOOLS / "test_stream.py", "--checkpoint", alone, "--scores", out),
        *("--set", "train.threads=1", f"data.cache={tmp_path}/cache"),
    )
    assert done.returncode == 0, done.stderr
    expected = score_checkpoint(alone, ["train.threads=1"])
    scores = load_scores(out)
    assert scores.names.tolist() == expected.names.tolist()
    assert len(set(scores.names.tolist())) == 7
    np.testing.assert_array_equal(scores.scores, expected.scores)


@pytest.mark.slow
def test_an_error_on_one_of_two_ends_both(demo: Path, tmp_path: Path) -> None:
    lines = (demo / "lists/train_split1.txt").read_text()
    (demo / "videos/bad.mp4").write_bytes(b"this is not a video")
    (tmp_path / "l.txt").write_text(f"{lines}bad.mp4 {lines.split()[1]} 0\n")
    values = settings_of(demo, tmp_path / "run")
    values["setting"] = "baseline"
    values["data"]["train_list"] = str(tmp_path / "l.txt")
    done = torchrun(2, TOOLS / "train_stream.py", "--config", write_settings(tmp_path / "c.yaml", values))
    assert done.returncode != 0
    assert "error: " in done.stderr
    assert "bad.mp4" in done.stderr
    for name in STREAMS:
        assert (tmp_path / "run" / name / "last.pt").exists()


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_every_clip_belongs_to_one_process_once(world: int) -> None:
    for size in (1, 7, 10, 31):
        tested = [
            key for rank in range(world) for keys in TestingSampler(size, 4, rank=rank, world=world) for key in keys
        ]
        assert sorted(tested) == [(0, index, None) for index in range(size)]
        for parts in (1, 2):
            mine = [
                list(TrainingSampler(size, 6, seed=3, parts=parts, rank=rank, world=world)) for rank in range(world)
            ]
            whole = list(TrainingSampler(size, 6, seed=3))
            sizes = sorted(map(len, whole))
            assert (len(sizes), sum(sizes)) == (-(-size // 6), size)
            assert sizes[-1] <= min(6, sizes[0] + 1)  # no step at the end that has fewer clips than processes
            assert {len(batches) for batches in mine} == {parts * len(whole)}
            for step, keys in enumerate(whole):
                shared = [k for batches in mine for b in batches[step * parts : (step + 1) * parts] for k in b]
                assert sorted(shared) == sorted(keys)


def test_steps_done_are_left_out() -> None:
    batches = TrainingSampler(20, 4, seed=1, parts=2)
    whole = list(batches)
    batches.first_step = 2
    assert list(batches) == whole[4:]
    assert len(batches) == len(whole) - 4


@pytest.mark.slow
def test_batchnorm_over_processes_is_that_of_one(tmp_path: Path) -> None:
    """Outputs, gradients and running statistics, with shares of different size."""
    script = tmp_path / "norm.py"
    script.write_text(
        f"{_SYNC_BN_ON_CPUS}"
        "import torch, torch.distributed as dist\n"
        "dist.init_process_group('gloo')\n"
        "torch.manual_seed(0)\n"
        "x = torch.randn(5, 3, 4, 4) * 3 + 1\n"
        "w = torch.randn(5, 3, 4, 4)\n"
        "net = torch.nn.Sequential(torch.nn.BatchNorm2d(3))\n"
        "net[0].weight.data = torch.randn(3)\n"
        "setup.convert_batch_norms(net, torch.device('cpu'))\n"
        "part = slice(0, 2) if dist.get_rank() == 0 else slice(2, 5)\n"
        "mine = x[part].clone().requires_grad_()\n"
        "out = net(mine)\n"
        "(out * w[part]).sum().backward()\n"
        "for p in net.parameters(): dist.all_reduce(p.grad)\n"
        "torch.save([out.detach(), mine.grad, net[0].weight.grad, net[0].running_mean, net[0].running_var],"
        " f'{sys.argv[1]}/{dist.get_rank()}.pt')\n"
    )
    done = torchrun(2, script, tmp_path)
    assert done.returncode == 0, done.stderr
    torch.manual_seed(0)
    x = (torch.randn(5, 3, 4, 4) * 3 + 1).requires_grad_()
    w = torch.randn(5, 3, 4, 4)
    norm = torch.nn.BatchNorm2d(3)
    norm.weight.data = torch.randn(3)
    out = norm(x)
    (out * w).sum().backward()
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert x.grad is not None
    torch.testing.assert_close(torch.cat([part[0] for part in parts]), out.detach())
    torch.testing.assert_close(torch.cat([part[1] for part in parts]), x.grad, atol=1e-5, rtol=1e-4)
    for part in parts:
        torch.testing.assert_close(part[2], norm.weight.grad, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(part[3], norm.running_mean)
        torch.testing.assert_close(part[4], norm.running_var)


@pytest.mark.slow
def test_a_process_that_hangs_is_noticed(tmp_path: Path) -> None:
    script = tmp_path / "hang.py"
    script.write_text(
        "import datetime, time\n"
        "import coviar_mocrop.runtime as runtime\n"
        "from coviar_mocrop.cli import run\n"
        "assert runtime._PATIENCE <= datetime.timedelta(minutes=15)\n"
        "runtime._PATIENCE = datetime.timedelta(seconds=5)\n"
        "def main():\n"
        "    with runtime.process_group() as group:\n"
        "        group.table([0.0])\n"
        "        if group.rank: time.sleep(500)\n"
        "        group.table([1.0])\n"
        "run(main)\n"
    )
    start = time.monotonic()
    done = torchrun(2, script)
    assert done.returncode != 0 and time.monotonic() - start < 250  # a loaded machine takes a minute
    assert "another process hangs or has ended; read its message, then continue with --resume" in done.stderr
