"""Splits: groups of clips divided into parts, validation clips held out, files in two lists."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from coviar_mocrop.datasets.lists import Clip
from coviar_mocrop.datasets.splits import Side, divide, find_leak, hold_out, same_files

GROUPS = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=3),
    st.dictionaries(st.sampled_from("xyz"), st.integers(1, 6), min_size=1, max_size=2),
    min_size=2,
    max_size=12,
)


@given(GROUPS, st.sampled_from([(0.3, 0.7), (0.5, 0.5), (0.25, 0.25, 0.25, 0.25)]), st.integers(0, 5))
def test_divide_gives_each_group_one_part_whatever_the_order(
    sizes: dict[str, dict[str, int]], shares: tuple[float, ...], seed: int
) -> None:
    part_of = divide(sizes, shares, seed)
    assert part_of.keys() == sizes.keys()
    assert set(part_of.values()) <= set(range(len(shares)))
    assert divide(dict(reversed(sizes.items())), shares, seed) == part_of


@settings(max_examples=60, deadline=None)
@example(2, 2, 0.125, 0)
@given(st.integers(2, 30), st.integers(1, 6), st.floats(0.1, 0.9), st.integers(0, 9))
def test_single_clips_come_as_near_to_the_share_as_can_be(clips: int, classes: int, share: float, seed: int) -> None:
    sizes = {f"{name}/{n}": {f"c{name}": 1} for name in range(classes) for n in range(clips)}
    part_of = divide(sizes, [share, 1 - share], seed)
    for name in range(classes):
        held_out = sum(part_of[f"{name}/{n}"] == 0 for n in range(clips))
        assert abs(held_out - share * clips) <= 1
        assert 0 < held_out < clips


def test_groups_of_both_classes_come_near_to_share_and_balance() -> None:
    generator = np.random.default_rng(3)
    sizes = {f"g{n}": {"a": int(generator.integers(1, 9)), "b": int(generator.integers(1, 9))} for n in range(30)}
    part_of = divide(sizes, [0.3, 0.7], 0)
    for name in "ab":
        held_out = sum(sizes[group][name] for group, part in part_of.items() if part == 0)
        assert held_out == pytest.approx(0.3 * sum(counts[name] for counts in sizes.values()), abs=2)


@pytest.mark.parametrize("seed", range(8))
def test_groups_change_places_where_moving_one_alone_does_not_help(seed: int) -> None:
    """Halves of 3, 3, 5, 5 are even only if each has one of either; from 3 + 3 no single group leads there."""
    sizes = {f"g{number}": {"a": count} for number, count in enumerate((3, 3, 5, 5))}
    part_of = divide(sizes, [0.5, 0.5], seed)
    assert sum(sizes[group]["a"] for group, part in part_of.items() if part == 0) == 8


def test_seeds_differ() -> None:
    sizes = {f"a/{n}": {"a": 1} for n in range(20)}
    assert len({tuple(sorted(divide(sizes, [0.5, 0.5], seed).items())) for seed in range(4)}) == 4


@given(GROUPS, st.floats(0.01, 0.9), st.integers(0, 5))
def test_validation_takes_whole_groups_and_leaves_each_class_a_clip(
    sizes: dict[str, dict[str, int]], share: float, seed: int
) -> None:
    group_of, clips = {}, []
    for group, classes in sizes.items():
        for name, count in classes.items():
            clips += [Clip(f"{group}/{name}/{n}", name, "xyz".index(name)) for n in range(count)]
            group_of |= {f"{group}/{name}/{n}": group for n in range(count)}
    tested = min(sizes)  # on the training side of the second split only
    before: dict[str, list[Side | None]] = {
        clip.path: ["test" if group_of[clip.path] == tested else "train", "train", None] for clip in clips
    }
    sides = hold_out(clips, before, group_of, share, seed)
    assert hold_out(clips[::-1], before, group_of, share, seed) == sides
    assert hold_out(clips, before, group_of, 0) == before
    for split in range(3):
        moved = {path for path, of in sides.items() if of[split] != before[path][split]}
        assert all((before[path][split], sides[path][split]) == ("train", "val") for path in moved)
        assert len({(group_of[path], of[split]) for path, of in sides.items()}) == len(sizes)
        trained = [{clip.class_name for clip in clips if of[clip.path][split] == "train"} for of in (before, sides)]
        assert trained[0] == trained[1]


def test_the_same_bytes_are_found_by_size_and_content(tmp_path: Path) -> None:
    contents = {"a": b"one", "b": b"two", "c": b"one", "d": b"longer", "e": b"", "f": b"", "g": b"two", "h": b"one"}
    whole = [bytes([n]) * 9000 for n in (1, 1, 2)]  # of which the middle is compared first
    contents |= {f"whole{n}": content for n, content in enumerate(whole)}
    contents |= {"first": b"1" + whole[0][1:], "last": whole[0][:-1] + b"1"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    same = same_files({name: tmp_path / name for name in [*contents, "not there"]})
    assert same == [["a", "c", "h"], ["b", "g"], ["whole0", "whole1"]]
    sides: dict[str, list[Side | None]] = {name: ["train", "test"] for name in contents}
    assert find_leak(same, sides) is None
    sides["h"][1] = None
    del sides["b"]
    assert find_leak(same, sides) is None
    sides["c"][1] = "val"
    assert find_leak(same, sides) == "a (test) and c (validation) hold the same bytes"
