#!/usr/bin/env python
"""Test trained streams together, fuse their scores, and compare settings in TensorBoard."""

from __future__ import annotations

from pathlib import Path

from coviar_mocrop.cli import add_set_argument, is_main_process, parser, run
from coviar_mocrop.clips.loading import Part
from coviar_mocrop.errors import ScoreError
from coviar_mocrop.files import require_writable
from coviar_mocrop.fusion import common_clips, fuse
from coviar_mocrop.fusion_weights import Scale, require_disjoint, rescale, tune_weights
from coviar_mocrop.inference.testing import score_checkpoints
from coviar_mocrop.runtime import Group, process_group
from coviar_mocrop.scores import Scores, load_scores, save_scores
from coviar_mocrop.viz.compare import compare
from coviar_mocrop.viz.results import results_table

EXAMPLES = """\
  python tools/fuse.py --checkpoints runs/demo --output runs/demo/fused
  python tools/fuse.py --checkpoints runs/demo --set setting=efficiency --output runs/demo/fused
  python tools/fuse.py --checkpoints runs/mine --tune --output runs/mine/fused
  python tools/fuse.py --scores iframe=A.npz mv=B.npz residual=C.npz --output runs/fused
  python tools/fuse.py --scores iframe=A.npz mv=B.npz residual=C.npz --weights 2 1 1 --output runs/fused
  python tools/fuse.py --scores iframe=A.npz mv=B.npz residual=C.npz clip=D.npz --weights clip=3 --output runs/fused
  python tools/fuse.py --scores iframe=A.npz clip=D.npz --tune-weights iframe=VA.npz clip=VD.npz --output runs/fused
"""

_FEW = 50
"""Validation clips below which a note says that what is chosen on them means little."""


def main() -> None:
    """Parse, fuse, print the table."""
    arguments = parser(
        "Late fusion: the weighted sum of the streams' clip scores, 2 : 1 : 1 by default, CLIP 1. With --checkpoints\n"
        "the test list is scored first; each clip is read once for all streams.\n\n"
        "Writes to the output folder: results.json (settings already there stay), fused scores, per-class accuracy\n"
        "(CSV), the confusion matrix and accuracy against GFLOPs (PNG), and one TensorBoard run per setting with\n"
        "the same tags, so that settings overlay.",
        EXAMPLES,
    )
    source = arguments.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--checkpoints", nargs="+", metavar="DIR_OR_FILE", help="folder of a run with several streams, or best.pt files"
    )
    source.add_argument("--scores", nargs="+", metavar="STREAM=FILE", help="score files by stream")
    add_set_argument(arguments)
    arguments.add_argument(
        "--weights",
        nargs="+",
        default=[],
        metavar="WEIGHT",
        help="fusion weights, iframe=2 mv=1 ... or numbers in the order of --scores (default: iframe=2, others 1)",
    )
    arguments.add_argument(
        "--tune",
        action="store_true",
        help="with --checkpoints: find the weights on the validation list",
    )
    arguments.add_argument(
        "--tune-weights",
        nargs="+",
        default=[],
        metavar="STREAM=FILE",
        help="with --scores: find the weights on these score files, of other clips (a validation list)",
    )
    arguments.add_argument(
        "--scale",
        choices=("logits", "softmax"),
        default="logits",
        help="fuse the scores as they are, or as shares that add up to 1 (default: %(default)s)",
    )
    arguments.add_argument("--output", required=True, metavar="DIR", help="folder of the results")
    arguments.add_argument("--setting", help="name of the run (default: the setting in the score files)")
    arguments.add_argument(
        "--common", action="store_true", help="fuse the clips that all files hold, where some were skipped"
    )
    given = arguments.parse_args()
    require_writable(given.output, folder=True)
    if given.weights and (given.tune or given.tune_weights):
        raise ScoreError("--weights and --tune: give one of the two")
    validation: dict[str, Scores] = {}
    if given.checkpoints:
        if given.tune_weights:
            raise ScoreError("--tune-weights: is for --scores; with --checkpoints, --tune scores the validation list")
        with process_group() as group:
            if given.tune:  # first, so that what is wrong with the list is said before the work
                validation = _score(given.checkpoints, given.set, given.output, "val", group)
            streams = _score(given.checkpoints, given.set, given.output, "test", group)
        if not is_main_process():
            return
    else:
        if given.tune:
            raise ScoreError("--tune: scores the validation list with --checkpoints; with --scores give --tune-weights")
        if given.set:
            raise ScoreError("--set: changes settings of checkpoints; score files were made with theirs")
        streams = {name: load_scores(file) for name, file in _pairs(given.scores, "--scores").items()}
        validation = {name: load_scores(file) for name, file in _pairs(given.tune_weights, "--tune-weights").items()}
    weights = _weights(given.weights, list(streams))
    if given.common:
        before = ", ".join(f"{name} has {len(scores.names)}" for name, scores in streams.items())
        streams = common_clips(streams)
        print(f"{len(next(iter(streams.values())).names)} clips in common; {before}")
    if validation:
        weights = _tune(validation, streams, given.scale, given.common)
    streams = rescale(streams, given.scale)
    results = compare(streams, given.output, weights=weights, setting=given.setting)
    print(results_table(results))
    print(f"\nwrote {given.output}/results.json; compare in TensorBoard: tensorboard --logdir {given.output}")


def _score(checkpoints: list[str], overrides: list[str], output: str, part: Part, group: Group) -> dict[str, Scores]:
    """Score a list with all streams from one decode of each clip, and keep the score files."""
    streams = score_checkpoints(checkpoints, overrides, part, group=group)
    if group.is_main:
        for name, scores in streams.items():
            file = f"{name}_{scores.settings['setting']}{'' if part == 'test' else f'_{part}'}.npz"
            save_scores(Path(output, "scores", file), scores)
    return streams


def _tune(validation: dict[str, Scores], streams: dict[str, Scores], scale: Scale, common: bool) -> dict[str, float]:
    """Find weights on other clips; say what they are worth on those and on the ones reported."""
    require_disjoint(validation, streams)
    validation = {name: validation[name] for name in streams}
    tuned = tune_weights(rescale(common_clips(validation) if common else validation, scale))
    reported = rescale(streams, scale)
    before, after = fuse(reported).top1, fuse(reported, tuned.weights).top1
    clips, reported_clips = (len(next(iter(part.values())).names) for part in (validation, streams))
    weights = " ".join(f"{name}={weight:g}" for name, weight in tuned.weights.items())
    print(f"weights: {weights} ({scale}); predict.py takes them, too: --weights {weights}")
    print(f"validation, {clips} clips: top-1 {tuned.before:.1%} with the default weights, {tuned.after:.1%} with these")
    gain = f"{100 * (after - before):+.1f} points"
    told = f"top-1 {before:.1%} with the default weights, {after:.1%} with these ({gain})"
    print(f"reported, {reported_clips} clips: {told}")
    if clips < _FEW:
        print(
            f"note: {clips} validation clips are few; weights, and a best epoch, that are chosen on so few mean little"
        )
    print()
    return tuned.weights


def _pairs(items: list[str], option: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for item in items:
        name, separator, value = item.partition("=")
        if not separator or not name or not value:
            raise ScoreError(f"{option} {item}: expected STREAM=..., such as iframe=...")
        if name in pairs:
            raise ScoreError(f"{option}: {name} is given twice")
        pairs[name] = value
    return pairs


def _weights(items: list[str], streams: list[str]) -> dict[str, float]:
    if items and not any("=" in item for item in items):
        if len(items) != len(streams):
            raise ScoreError(f"--weights: {len(items)} numbers for {len(streams)} streams; give one for each")
        items = [f"{name}={item}" for name, item in zip(streams, items, strict=True)]
    return {name: _number(name, text) for name, text in _pairs(items, "--weights").items()}


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ScoreError(f"--weights {name}={text}: {text!r} is not a number") from error


if __name__ == "__main__":
    run(main)
