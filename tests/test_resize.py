"""Crop and resize: Pillow's bits, with and without numba."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from coviar_mocrop.clips.resize import Resample, compile_kernels, resize

RESAMPLES = st.sampled_from(["bilinear", "bicubic"])


def noise(*shape: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def pillow(pictures: NDArray[np.uint8], size: int, resample: Resample) -> NDArray[np.uint8]:
    """Pillow on each channel, the width first (a single call of Pillow 13 may begin with the height)."""
    resampling = Image.Resampling[resample.upper()]
    planes = [
        Image.fromarray(np.ascontiguousarray(picture[..., channel]))
        .resize((size, pictures.shape[1]), resampling)
        .resize((size, size), resampling)
        for picture in pictures
        for channel in range(pictures.shape[3])
    ]
    return np.array([np.asarray(plane) for plane in planes]).reshape(len(pictures), -1, size, size)


@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 3), st.integers(1, 70), RESAMPLES, st.integers(0, 99))
@example(300, 17, 3, 24, "bilinear", 0)  # more rows than are turned at a time
@example(9, 40, 3, 9, "bicubic", 0)  # only the width changes
@example(40, 9, 2, 9, "bicubic", 0)  # only the height changes
@example(33, 33, 2, 33, "bilinear", 0)
@example(1, 90, 1, 70, "bicubic", 0)
def test_pillow_gives_the_same_bits(h: int, w: int, channels: int, size: int, resample: Resample, seed: int) -> None:
    pictures = noise(2, h, w, channels, seed=seed)
    resized = resize(pictures, None, size, resample)
    assert resized.flags.c_contiguous and resized.dtype == np.uint8
    np.testing.assert_array_equal(resized, pillow(pictures, size, resample))


@given(st.data(), st.integers(1, 3), RESAMPLES)
def test_the_crop_comes_first(data: st.DataObject, channels: int, resample: Resample) -> None:
    pictures = noise(2, 41, 53, channels)
    top, left = data.draw(st.integers(0, 40)), data.draw(st.integers(0, 52))
    bottom, right = data.draw(st.integers(top + 1, 41)), data.draw(st.integers(left + 1, 53))
    resized = resize(pictures, (top, left, bottom, right), 16, resample)
    np.testing.assert_array_equal(resized, pillow(pictures[:, top:bottom, left:right], 16, resample))


def test_one_call_of_pillow_where_the_width_shrinks_more() -> None:
    frame = noise(1, 256, 340, 3)
    whole = Image.fromarray(frame[0, 20:225, 30:302]).resize((224, 224), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(resize(frame, (20, 30, 225, 302), 224)[0], np.moveaxis(np.asarray(whole), 2, 0))


def test_black_and_white_stay_so() -> None:
    """The weights of a pixel add up to 1, and overshoots of the bicubic filter are clipped."""
    edges = np.zeros((1, 50, 50, 1), np.uint8)
    assert not resize(edges, None, 33, "bicubic").any()
    edges[:] = 255
    assert (resize(edges, None, 33, "bicubic") == 255).all()
    edges[:, :, 25:] = 0
    assert set(np.unique(resize(edges, None, 120, "bicubic"))) >= {0, 255}


@pytest.mark.parametrize("channels", [2, 3])
def test_views_that_are_not_contiguous(channels: int) -> None:
    base = noise(6, 30, 40, 4)
    for view in (
        base[::2, ::-1, 3:, :channels],
        base[::2, :, ::2, 1 : 1 + channels],
        base.swapaxes(1, 2)[..., :channels],
    ):
        np.testing.assert_array_equal(resize(view, (1, 2, 25, 17), 20), resize(view.copy(), (1, 2, 25, 17), 20))


def test_pictures_that_must_not_be_written_to() -> None:
    pictures = noise(1, 9, 9, 3)
    pictures.flags.writeable = False
    np.testing.assert_array_equal(resize(pictures, None, 5), resize(pictures.copy(), None, 5))


def test_no_pictures() -> None:
    assert resize(noise(0, 8, 8, 3), None, 4).shape == (0, 3, 4, 4)


def test_without_numba_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = noise(2, 47, 31, 3)
    compile_kernels()
    compiled = {resample: resize(pictures, (3, 2, 47, 30), 37, resample) for resample in ("bilinear", "bicubic")}
    monkeypatch.setattr("coviar_mocrop.clips.resize._compiled", lambda: None)
    for resample, wanted in compiled.items():
        np.testing.assert_array_equal(resize(pictures, (3, 2, 47, 30), 37, resample), wanted)


@pytest.mark.slow  # processes of their own
@pytest.mark.parametrize("how", ["sys.modules['numba'] = None", "os.environ['NUMBA_DISABLE_JIT'] = '1'"])
def test_numba_is_not_needed(how: str) -> None:
    program = f"""if True:
        import os, sys
        {how}
        import numpy as np
        from coviar_mocrop.clips.resize import resize
        assert resize(np.full((1, 4, 4, 1), 7, np.uint8), None, 2).tolist() == [[[[7, 7], [7, 7]]]]
        assert "PIL" in sys.modules
    """
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.slow  # processes of their own
def test_a_folder_that_cannot_be_written_to() -> None:
    """Numba then compiles for this process alone."""
    program = """if True:
        import numba.core.caching as caching
        def refuse(self): raise OSError("read-only")
        caching._CacheLocator.ensure_cache_path = refuse
        import numpy as np
        from coviar_mocrop.clips.resize import resize
        assert resize(np.full((1, 4, 4, 1), 7, np.uint8), None, 2).tolist() == [[[[7, 7], [7, 7]]]]
        import coviar_mocrop.clips.resize_kernels as kernels
        assert type(kernels.resize_pictures._cache).__name__ == "NullCache"
    """
    subprocess.run([sys.executable, "-c", program], check=True)


def test_importing_it_imports_neither_numba_nor_torch() -> None:
    program = "import sys, coviar_mocrop.clips.resize; assert not {'numba', 'torch', 'PIL'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
