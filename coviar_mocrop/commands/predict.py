"""Classify videos with trained streams.

One video: the five likeliest classes with bars, and the time spent on reading (box and crops included) and on each
stream. Several videos, or a folder: a table. Each video is read once for all streams. Videos that cannot be read are
named and left out; the exit code is then 1.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from coviar_mocrop.cli import FrameBar, add_set_argument, output_paths
from coviar_mocrop.commands.networks import add_networks_arguments, open_predictor
from coviar_mocrop.errors import DataError, NoMotionVectorsError, VideoError
from coviar_mocrop.viz.pictures import PICTURES, require_picture, save_figure

if TYPE_CHECKING:
    from coviar_mocrop.datasets.lists import Form
    from coviar_mocrop.inference.prediction import Prediction
    from coviar_mocrop.inference.predictor import Predictor

EXAMPLES = """\
  coviar predict clip.mp4 --checkpoints runs/demo --output clip.png
  coviar predict clip.mp4 --checkpoints best.pt --set setting=efficiency
  coviar predict phone.mov --transcode --checkpoints runs/mine
  coviar predict clip.mp4 --onnx exported --precision int8
  coviar predict videos/ more.mp4 --checkpoints a/best.pt b/best.pt --json > predictions.jsonl
"""
_BAR = 30
"""Width of the bars, characters."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("input", nargs="+", metavar="VIDEO", help="videos, addresses of videos (http), or folders")
    add_networks_arguments(parser)
    parser.add_argument(
        "--output", type=Path, metavar="PICTURE", help="picture of the prediction; for several videos, a folder of them"
    )
    parser.add_argument(
        "--transcode",
        action="store_true",
        help="first transcode each video to the format of the training videos, in a temporary file; also for codecs "
        "without motion vectors (HEVC, VP9, AV1)",
    )
    parser.add_argument(
        "--weights",
        nargs="+",
        metavar="STREAM=NUMBER",
        help="fusion weights, or coviar: iframe=2, others 1 (default: the weights that coviar fuse learned and stored "
        "in the folder of the run, if there are any, else coviar)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object per video and nothing else")
    add_set_argument(parser)


def main(given: argparse.Namespace) -> None:
    """Classify the videos and print what they show."""
    from coviar_mocrop.bitstream.addresses import source_names
    from coviar_mocrop.bitstream.container import name_of
    from coviar_mocrop.datasets.transcoding import find_videos

    videos = find_videos(given.input)
    pictures = output_paths(videos, given.output, "--output", PICTURES) if given.output else []
    for picture in pictures:
        require_picture(picture)
    predictor = open_predictor(given)
    many = len(videos) > 1
    names = source_names(videos)
    width = max(map(len, names))
    done, warned = 0, False
    for number, (path, shown) in enumerate(zip(videos, names, strict=True)):
        try:
            with FrameBar(Path(shown).name) as bar:
                prediction = replace(predictor(path, progress=bar), path=shown)
        except VideoError as problem:
            error = problem.advising("add --transcode") if isinstance(problem, NoMotionVectorsError) else problem
            if not many:
                raise error from problem
            print(f"skipped {str(error).replace(name_of(path), shown, 1)}", file=sys.stderr)
            continue
        if prediction.damaged_frames:
            print(_damaged(prediction), file=sys.stderr)
        if predictor.form and not prediction.as_trained and not warned:
            warned = True
            print(_unlike(prediction, predictor.form), file=sys.stderr)
        if given.json:
            fusion = {"weights": predictor.weights, "weights_from": predictor.weights_from}
            print(json.dumps({**prediction.as_json(), **fusion}), flush=True)
        elif many:
            if not done:
                if len(predictor.weights) > 1:
                    print(_weights_line(predictor))
                print(f"{'video':{width}}  {'share':>6}  {'ms':>6}  class")
            name, share = prediction.best(1)[0]
            spent = sum(prediction.milliseconds.values())
            print(f"{shown:{width}}  {share:6.1%}  {spent:6.0f}  {name}", flush=True)
        else:
            print(_report(prediction, predictor))
        done += 1
        if pictures:
            _draw(prediction, predictor, pictures[number], given)
    if not done:
        raise DataError(f"none of the {len(videos)} videos could be read")
    if done < len(videos):
        print(f"{len(videos) - done} of {len(videos)} videos could not be read", file=sys.stderr)
        raise SystemExit(1)


def _damaged(prediction: Prediction) -> str:
    frames = "1 frame is" if prediction.damaged_frames == 1 else f"{prediction.damaged_frames} frames are"
    return (
        f"warning: {prediction.path}: {frames} damaged, and others may show the same errors, so the prediction may be "
        "wrong; copy or download the file again"
    )


def _unlike(prediction: Prediction, form: Form) -> str:
    trained = f"the streams were trained on transcoded videos ({form})"
    return f"note: {prediction.path}: {trained}; this one is not: add --transcode"


def _weights_line(predictor: Predictor) -> str:
    from coviar_mocrop.viz.results import weights_text

    return f"weights: {weights_text(predictor.weights)} ({predictor.weights_from})"


def _report(prediction: Prediction, predictor: Predictor) -> str:
    best = prediction.best()
    width = max(len(name) for name, _ in best)
    lines = [f"{prediction.path} ({predictor.setting})"]
    lines += [f"  {name:{width}}  {'█' * round(_BAR * share):{_BAR}}  {share:6.1%}" for name, share in best]
    alone = [f"{name}: {prediction.best(1, name)[0][0]}" for name in predictor.weights]
    if len(alone) > 1:
        lines.append(f"  {_weights_line(predictor)}")
    lines += [f"  alone: {', '.join(alone)}", f"  time: {_times(prediction)}"]
    if prediction.box is not None:
        x0, y0, x1, y1 = prediction.box
        lines.append(f"  box: x {x0:.2f} to {x1:.2f}, y {y0:.2f} to {y1:.2f}, {prediction.box.area:.0%} of the frame")
    return "\n".join(lines)


def _times(prediction: Prediction) -> str:
    return ", ".join(f"{name} {spent:.1f} ms" for name, spent in prediction.milliseconds.items())


def _draw(prediction: Prediction, predictor: Predictor, output: Path, given: argparse.Namespace) -> None:
    from coviar_mocrop.viz.clip_figures import prediction_figure, short_name

    name, share = prediction.best(1)[0]
    figure = prediction_figure(
        prediction.iframes,
        prediction.box,
        prediction.seen,
        prediction.classes,
        {predictor.title(name): row for name, row in prediction.probabilities.items()},
        f"{short_name(prediction.path)}: {name}, {share:.1%} ({predictor.setting})",
        _times(prediction),
    )
    save_figure(figure, output)
    if not given.json:
        print(f"wrote {output}")
