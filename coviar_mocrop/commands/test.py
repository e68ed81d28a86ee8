"""Test one trained stream on the test list.

Writes a score file (.npz) with names, labels, scores, classes and settings, which coviar fuse --scores reads. To test
several streams at once and fuse them, use coviar fuse --checkpoints.

The settings are those the stream was trained with; --set changes single ones. The zero-shot stream has no checkpoint:
--config and --streams name it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from coviar_mocrop.cli import add_config_argument, add_set_argument
from coviar_mocrop.errors import ConfigError
from coviar_mocrop.files import require_writable

EXAMPLES = """\
  coviar test --checkpoint runs/demo/iframe/best.pt --scores runs/demo/scores/iframe.npz
  coviar test --checkpoint runs/demo/iframe/best.pt --set setting=efficiency --scores eff.npz
  coviar test --checkpoint best.pt --set input.test_segments=25 input.test_crops=10 --scores s.npz
  coviar test --config ucf101 --streams zero_shot --scores runs/ucf101/zero_shot.npz
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--checkpoint", metavar="FILE", help="best.pt or last.pt of a run")
    parser.add_argument("--scores", required=True, metavar="OUT.npz", help="score file to write")
    add_config_argument(parser, of="to use in place of the checkpoint's")
    parser.add_argument("--streams", metavar="NAME", help="run of --config to test, if there is no --checkpoint")
    add_set_argument(parser)


def main(given: argparse.Namespace) -> None:
    """Test, and save the scores."""
    from coviar_mocrop.fusion import measure
    from coviar_mocrop.inference.testing import load_untrained, score_checkpoint, score_streams
    from coviar_mocrop.inference.validation import warn_if_fitted_on
    from coviar_mocrop.runtime import process_group
    from coviar_mocrop.scores import save_scores

    if not (given.checkpoint or given.config):
        raise ConfigError("there is nothing to score; give --checkpoint, or --config and --streams zero_shot")
    if given.checkpoint and given.streams:
        raise ConfigError("--streams: the checkpoint is of one stream; leave it out")
    if Path(given.scores).suffix != ".npz":  # such as the checkpoint itself
        raise ConfigError(f"--scores {given.scores}: a score file ends in .npz; choose another name")
    require_writable(given.scores)
    with process_group() as group:
        if given.checkpoint:
            scores = score_checkpoint(given.checkpoint, given.set, given.config, group=group)
        else:
            stream = load_untrained(given.config, given.set, given.streams)
            scores = score_streams([stream], group=group)[stream.name]
        if not group.is_main:
            return
    save_scores(given.scores, scores)
    if given.checkpoint:
        warn_if_fitted_on(given.checkpoint, scores)
    accuracy, facts = measure(scores), scores.settings
    top5 = "" if accuracy.top5 is None else f", top-5 {accuracy.top5:.1%}"
    print(
        f"{facts['stream']}, {facts['setting']}: top-1 {accuracy.top1:.1%}{top5} on "
        f"{len(scores.names)} clips; {facts['gflops_per_frame']:.3f} GFLOPs per frame, "
        f"{facts['gflops_per_clip']:.2f} per clip; {facts['ms_read']:.0f} ms reading and "
        f"{facts['ms_network']:.0f} ms network per clip; wrote {given.scores}"
    )
