"""Test trained streams together, fuse their scores and compare settings.

Late fusion is the weighted sum of the streams' clip scores. With --checkpoints the weights are learned on the
validation list of the settings (data.val_list) and stored in the folder of the run (fusion.json), where coviar predict
finds them (those for --scale softmax are not stored). For frozen networks they are learned on the scores of clips that
cross-validation held out in training. Then the test list, if there is one, is scored; each clip is read once for all
streams. If there is nothing to learn on, the weights are those of CoViAR: iframe 2, all others 1.

Writes to the output folder: results.json (settings already there stay), fused scores, accuracy per class (CSV), the
confusion matrix and accuracy against GFLOPs (PNG), and one TensorBoard run per setting with the same tags, so that
settings overlay.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from coviar_mocrop.cli import add_set_argument, parse_pairs, parse_weights
from coviar_mocrop.errors import ScoreError
from coviar_mocrop.files import require_writable
from coviar_mocrop.torchrun import is_main_process

if TYPE_CHECKING:
    from coviar_mocrop.fusion_weights import LearnedFusion, Scale
    from coviar_mocrop.scores import Scores
    from coviar_mocrop.streams.base import Stream

EXAMPLES = """\
  coviar fuse --checkpoints runs/demo --output runs/demo/fused
  coviar fuse --checkpoints runs/demo --set setting=efficiency --output runs/demo/fused
  coviar fuse --checkpoints runs/mine --output runs/mine/fused
  coviar fuse --checkpoints runs/mine --weights coviar --output runs/mine/fused_coviar
  coviar fuse --scores iframe=A.npz mv=B.npz residual=C.npz --output runs/fused
  coviar fuse --scores iframe=A.npz mv=B.npz residual=C.npz --weights 2 1 1 --output runs/fused
  coviar fuse --scores iframe=A.npz mv=B.npz residual=C.npz clip=D.npz --weights clip=3 --output runs/fused
  coviar fuse --scores iframe=A.npz clip=D.npz --tune-weights iframe=VA.npz clip=VD.npz --output runs/fused
"""

_FEW = 50
"""Validation clips below which a note says that what is chosen on them means little."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    streams = parser.add_argument_group("streams")
    source = streams.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--checkpoints", nargs="+", metavar="DIR_OR_FILE", help="folder of a run with several streams, or best.pt files"
    )
    source.add_argument("--scores", nargs="+", metavar="STREAM=FILE", help="score files by stream")
    add_set_argument(streams)
    streams.add_argument(
        "--common", action="store_true", help="fuse only the clips that all streams have, where some were skipped"
    )
    fusion = parser.add_argument_group("fusion weights")
    fusion.add_argument(
        "--weights",
        nargs="+",
        metavar="WEIGHT",
        help="give the weights: coviar (iframe=2, others 1), or iframe=2 mv=1 ..., or numbers in the order of --scores",
    )
    fusion.add_argument(
        "--tune",
        action="store_true",
        help="with --checkpoints: stop with an error if the weights cannot be learned (there is no validation list, or "
        "it shares clips with the test list)",
    )
    fusion.add_argument(
        "--tune-weights",
        nargs="+",
        default=[],
        metavar="STREAM=FILE",
        help="with --scores: learn the weights on these score files, of other clips (a validation list)",
    )
    fusion.add_argument(
        "--scale",
        choices=("logits", "softmax"),
        default="logits",
        help="fuse the scores as they are, or as probabilities (default: %(default)s)",
    )
    results = parser.add_argument_group("results")
    results.add_argument("--output", required=True, metavar="DIR", help="folder of the results")
    results.add_argument(
        "--setting", help="name under which the results are stored (default: the setting of the scores)"
    )


def main(given: argparse.Namespace) -> None:
    """Fuse, and print the table."""
    from coviar_mocrop.fusion import common_clips
    from coviar_mocrop.fusion_weights import rescale
    from coviar_mocrop.inference.stored_fusion import fusion_file, store_fusion
    from coviar_mocrop.inference.testing import find_checkpoints, load_streams, score_streams
    from coviar_mocrop.inference.validation import validation_scores, warn_if_fitted_on
    from coviar_mocrop.runtime import process_group
    from coviar_mocrop.scores import load_scores
    from coviar_mocrop.shared_settings import require_shared
    from coviar_mocrop.viz.compare import compare
    from coviar_mocrop.viz.results import results_table, weights_lines

    require_writable(given.output, folder=True)
    if given.weights and (given.tune or given.tune_weights):
        raise ScoreError("--weights excludes --tune and --tune-weights; give one of them")
    validation: dict[str, Scores] = {}
    trained: dict[str, Stream] = {}
    if given.checkpoints:
        if given.tune_weights:
            raise ScoreError("--tune-weights: is for --scores; with --checkpoints, --tune scores the validation list")
        with process_group() as group:
            files = find_checkpoints(given.checkpoints)
            trained = load_streams(files, given.set)
            if group.is_main and (left_out := _left_out(given.checkpoints, files)):
                print(left_out)
            weights = parse_weights(given.weights, list(trained))
            require_shared({name: stream.config for name, stream in trained.items()}, ("data.test_list",))
            if not given.weights:  # first, so that what is wrong with the list is said before the work
                try:
                    validation = validation_scores(trained, files, group)
                except ScoreError as problem:
                    if given.tune:
                        raise ScoreError(f"--tune: {problem}") from problem
                    if group.is_main:
                        print(f"weights: the default ones, because {problem}")
            reports = any(stream.config.data.test_list for stream in trained.values())
            streams = score_streams(list(trained.values()), group=group) if reports else {}
            if group.is_main:
                _keep(validation, files, given.output, "_val")
                _keep(streams, files, given.output)
                for scores, checkpoint in zip(streams.values(), files, strict=bool(streams)):
                    warn_if_fitted_on(checkpoint, scores)
        if not is_main_process():
            return
    else:
        if given.tune:
            raise ScoreError("--tune: scores the validation list with --checkpoints; with --scores give --tune-weights")
        if given.set:
            raise ScoreError("--set: changes settings of checkpoints; score files were made with theirs")
        expected = "STREAM=FILE, such as iframe=A.npz"
        streams = {name: load_scores(file) for name, file in parse_pairs(given.scores, "--scores", expected).items()}
        weights = parse_weights(given.weights, list(streams))
        held_out = parse_pairs(given.tune_weights, "--tune-weights", expected)
        validation = {name: load_scores(file) for name, file in held_out.items()}
    if given.common and streams:
        before = ", ".join(f"{name} has {len(scores.names)}" for name, scores in streams.items())
        streams = common_clips(streams)
        print(f"{len(next(iter(streams.values())).names)} clips in common; {before}")
    learned, found = None, None
    if validation:
        if given.common or trained:  # streams may have skipped different clips
            validation = common_clips(validation)
        learned = _learn(validation, streams, given.scale, demanded=given.tune or given.tune_weights)
    if learned:
        weights, found = learned.weights, learned.found
    if learned and given.scale == "logits" and (file := fusion_file(given.checkpoints or (), trained)):
        store_fusion(file, trained, learned)
        print(f"wrote {file}, which coviar predict uses")
    elif learned and trained and given.scale == "softmax":
        print("the weights are not stored, because coviar predict fuses logits (--scale logits)")
    if not streams:
        print("there is no test list (data.test_list), so nothing is reported")
        return
    streams = rescale(streams, given.scale)
    results = compare(streams, given.output, weights=weights, weights_from=found, setting=given.setting)
    print(f"{results_table(results)}\n\n{weights_lines(results)}")
    print(f"\nwrote {given.output}/results.json; compare in TensorBoard: tensorboard --logdir {given.output}")


def _left_out(checkpoints: Sequence[str], taken: Sequence[Path]) -> str:
    """Which other runs the folders hold, in a line."""
    runs = [run.parent for folder in checkpoints for run in sorted(Path(folder).glob("*/best.pt")) if run not in taken]
    return f"left out: {', '.join(map(str, runs))}; to fuse other runs, give their best.pt" if runs else ""


def _keep(found: Mapping[str, Scores], files: Sequence[Path], output: str, suffix: str = "") -> None:
    """Write the score files of all streams, which come in the order of their checkpoints."""
    from coviar_mocrop.scores import save_scores

    for (name, scores), checkpoint in zip(found.items(), files, strict=bool(found)):
        scores.settings["checkpoint"] = os.fspath(checkpoint)
        save_scores(Path(output, "scores", f"{name}_{scores.settings['setting']}{suffix}.npz"), scores)


def _learn(
    validation: dict[str, Scores], reported: dict[str, Scores], scale: Scale, *, demanded: bool
) -> LearnedFusion | None:
    """Learn weights and say what they are worth on the clips they are learned on; None where these cannot be used.

    Raises:
        ScoreError: they are among those reported although weights were ``demanded``, or do not belong together.
    """
    from coviar_mocrop.fusion_weights import require_disjoint, rescale, tune_weights

    try:
        if reported:
            require_disjoint(validation, reported)
    except ScoreError as error:
        if demanded:
            raise
        print(f"weights: the default ones, because {error}")
        return None
    validation = rescale(validation, scale)
    if len(set(next(iter(validation.values())).labels.tolist())) < 2:
        print("weights: the default ones, because the validation clips are of one class only")
        return None
    learned = tune_weights(validation)
    print(learned.report)
    if learned.clips < _FEW:
        print(f"note: {learned.clips} held-out clips are too few to choose weights reliably")
    return learned
