#!/usr/bin/env python
"""Score the test list with one stream."""

from __future__ import annotations

from pathlib import Path

from coviar_mocrop.cli import add_set_argument, parser, run
from coviar_mocrop.errors import ConfigError
from coviar_mocrop.files import require_writable
from coviar_mocrop.fusion import measure
from coviar_mocrop.inference.testing import load_untrained, score_checkpoint, score_streams
from coviar_mocrop.runtime import process_group
from coviar_mocrop.scores import save_scores

EXAMPLES = """\
  python tools/test_stream.py --checkpoint runs/demo/iframe/best.pt --scores runs/demo/scores/iframe.npz
  python tools/test_stream.py --checkpoint runs/demo/iframe/best.pt --set setting=efficiency --scores eff.npz
  python tools/test_stream.py --checkpoint best.pt --set input.test_segments=25 input.test_crops=10 --scores s.npz
  python tools/test_stream.py --config configs/ucf101.yaml --streams zero_shot --scores runs/ucf101/zero_shot.npz
"""


def main() -> None:
    """Parse, test, save."""
    arguments = parser(
        "Test a trained stream and write its score file (.npz: names, labels, scores, classes, settings).\n"
        "tools/fuse.py --checkpoints tests and fuses several streams at once.\n\n"
        "The settings are those the stream was trained with; --set changes single ones. The zero-shot stream has no\n"
        "checkpoint: --config and --streams name it.",
        EXAMPLES,
    )
    arguments.add_argument("--checkpoint", metavar="FILE", help="best.pt or last.pt of a run")
    arguments.add_argument("--scores", required=True, metavar="OUT.npz", help="score file to write")
    arguments.add_argument("--config", metavar="FILE", help="settings to use in place of the checkpoint's")
    arguments.add_argument("--streams", metavar="NAME", help="run of the settings file, without --checkpoint")
    add_set_argument(arguments)
    given = arguments.parse_args()
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
    accuracy, facts = measure(scores), scores.settings
    top5 = "" if accuracy.top5 is None else f", top-5 {accuracy.top5:.1%}"
    print(
        f"{facts['stream']}, {facts['setting']}: top-1 {accuracy.top1:.1%}{top5} on "
        f"{len(scores.names)} clips; {facts['gflops_per_frame']:.3f} GFLOPs per frame, "
        f"{facts['gflops_per_clip']:.2f} per clip; {facts['ms_read']:.0f} ms reading and "
        f"{facts['ms_network']:.0f} ms network per clip; wrote {given.scores}"
    )


if __name__ == "__main__":
    run(main)
