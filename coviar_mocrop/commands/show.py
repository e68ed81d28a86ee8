"""Show what MoCrop sees in a video, and where it puts the box.

Writes a picture: I-frames with the box, the motion density in which the box was found, motion vectors as arrows, and
what each stream sees after the crop. With --video also the video with the box on every frame. With --checkpoint also
the motion that a trained MotionSqueeze network finds, beside that of the codec. Only --checkpoint needs torch.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from coviar_mocrop.cli import FrameBar
from coviar_mocrop.errors import NoMotionVectorsError, VideoError
from coviar_mocrop.files import require_writable
from coviar_mocrop.viz.pictures import require_picture, save_figure

EXAMPLES = """\
  coviar show clip.mp4
  coviar show clip.mp4 --area-ratio 0.4 --output crop.png --video crop.mp4
  coviar show phone.mov --transcode
  coviar show clip.mp4 --set preset=paper_v2 rows=12
  coviar show clip.mp4 --checkpoint runs/demo/iframe_motion_squeeze/best.pt
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("input", metavar="VIDEO", help="a video, or the address of one (http)")
    parser.add_argument(
        "--output", type=Path, metavar="PICTURE", help="picture to write (default: NAME_crop.png in this folder)"
    )
    parser.add_argument(
        "--transcode",
        action="store_true",
        help="first transcode the video to the canonical format (H.264, 340x256), in a temporary file, as coviar "
        "prepare does; also for codecs without motion vectors (HEVC, VP9, AV1)",
    )
    parser.add_argument("--video", type=Path, metavar="MP4", help="video with the box on every frame to write")
    parser.add_argument(
        "--area-ratio", type=float, metavar="SHARE", help="share of the frame that the box covers (default: 0.75)"
    )
    parser.add_argument(
        "--iframes", type=int, default=4, metavar="N", help="number of I-frames to show (default: %(default)s)"
    )
    parser.add_argument(
        "--checkpoint",
        metavar="FILE",
        help="I-frame stream with MotionSqueeze: also write its motion beside the codec's, as OUTPUT_motion.png",
    )
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="change settings of MoCrop, such as --set preset=paper_v2",
    )


def main(given: argparse.Namespace) -> None:
    """Read the video, and write the pictures."""
    from coviar_mocrop.bitstream import open_video
    from coviar_mocrop.bitstream.container import name_of
    from coviar_mocrop.mocrop import MoCropSettings
    from coviar_mocrop.viz.clip_figures import short_name
    from coviar_mocrop.viz.show import annotate_video, inspect_clip, inspect_motion

    ratio = [] if given.area_ratio is None else [f"area_ratio={given.area_ratio}"]
    settings = MoCropSettings.from_items([*given.set, *ratio])
    output = given.output or Path(f"{Path(given.input).stem}_crop.png")
    require_picture(output)
    if given.video:
        require_writable(given.video)
        if given.video.resolve() == Path(given.input).resolve():
            raise VideoError(f"--video {given.video}: would replace the video it is made from; choose another name")
    stream = None
    if given.checkpoint:
        from coviar_mocrop.inference.testing import load_stream

        stream = load_stream(given.checkpoint)
    name = short_name(name_of(given.input))
    with FrameBar(name) as bar, _readable(given.input, given.transcode, bar) as path:
        with open_video(path) as video:
            video.progress = bar
            try:
                view = inspect_clip(video, settings, iframes=given.iframes)
            except NoMotionVectorsError as error:
                raise error.advising("add --transcode") from None
            title = f"{name}: MoCrop {settings.preset}, box of {view.box.area:.0%} of the frame"
            save_figure(view.figure(title), output)
            x0, y0, x1, y1 = view.box
            where = f"x {x0:.3f} to {x1:.3f}, y {y0:.3f} to {y1:.3f}"
            print(f"box: {where}, {view.box.area:.1%} of the frame; wrote {output}")
            if given.video:
                print(f"wrote {given.video}: {annotate_video(video, given.video, view.box)} frames")
        if stream is not None:
            data = stream.config.data
            with open_video(path, data.backend, data.anchor_every) as video:
                motion = inspect_motion(video, stream, view.box if stream.config.crops else None)
            picture = output.with_name(f"{output.stem}_motion{output.suffix}")
            save_figure(motion.figure(name), picture)
            print(f"wrote {picture}: {len(motion.displacement)} steps, mean confidence {motion.confidence.mean():.2f}")


@contextmanager
def _readable(source: str, transcoding: bool, bar: FrameBar) -> Iterator[str | Path]:
    """The video, or a temporary transcoded copy of it."""
    from coviar_mocrop.bitstream import transcode

    if not transcoding:
        yield source
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "canonical.mp4")
        transcode(source, copy, progress=bar)
        yield copy
