"""Where networks run: what is chosen on a GPU, and what its errors tell a user. No GPU is needed here."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from coviar_mocrop.cli import run
from coviar_mocrop.errors import ConfigError
from coviar_mocrop.runtime import choose_runtime
from coviar_mocrop.training.config import TrainConfig


@pytest.mark.parametrize("deterministic", [True, False])
def test_on_a_gpu_algorithms_are_deterministic_or_the_fastest(
    monkeypatch: pytest.MonkeyPatch, deterministic: bool
) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr(torch, "empty", lambda *_, **__: None)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: asked.update(device=str(device)))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (8, 0))
    monkeypatch.setattr(torch, "use_deterministic_algorithms", lambda yes: asked.update(deterministic=yes))
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", deterministic)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    runtime = choose_runtime(TrainConfig(device="cuda", deterministic=deterministic), local_rank=3)
    assert asked == {"device": "cuda:1", "deterministic": deterministic}
    assert torch.backends.cudnn.benchmark is not deterministic
    assert (runtime.device, runtime.dtype) == (torch.device("cuda:1"), torch.bfloat16)


def test_a_device_that_is_not_there_is_told() -> None:
    with pytest.raises(ConfigError, match=r"train\.device is 'nonsense'.*try cpu or auto"):
        choose_runtime(TrainConfig(device="nonsense"))


@pytest.mark.parametrize(
    ("says", "remedy"),
    [
        ("CUDA out of memory. Tried to allocate 2 GiB", "lower train.batch_size"),
        ("upsample_backward does not have a deterministic implementation, but you set", "train.deterministic=false"),
    ],
)
def test_what_a_gpu_refuses_ends_in_one_line(says: str, remedy: str, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise RuntimeError(f"{says}\nand more")

    with pytest.raises(SystemExit) as caught:
        run(fail)
    assert caught.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith(f"error: {says}; ") and remedy in told and told.count("\n") == 1
    with pytest.raises(RuntimeError, match="a bug"):
        run(lambda: (_ for _ in ()).throw(RuntimeError("a bug")))
