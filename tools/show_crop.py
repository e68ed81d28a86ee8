#!/usr/bin/env python
"""Show what MoCrop sees in a video, and where it puts the box."""

from __future__ import annotations

from pathlib import Path

from coviar_mocrop.bitstream import open_video
from coviar_mocrop.cli import parser, run
from coviar_mocrop.errors import VideoError
from coviar_mocrop.files import require_writable
from coviar_mocrop.inference.show import annotate_video, inspect_clip, inspect_motion
from coviar_mocrop.inference.testing import load_stream
from coviar_mocrop.mocrop import MoCropSettings
from coviar_mocrop.viz.clip_figures import short_name
from coviar_mocrop.viz.pictures import require_picture, save_figure

EXAMPLES = """\
  python tools/show_crop.py clip.mp4
  python tools/show_crop.py clip.mp4 --area-ratio 0.4 --output crop.png --video crop.mp4
  python tools/show_crop.py clip.mp4 --set preset=paper_v2 rows=12
  python tools/show_crop.py clip.mp4 --checkpoint runs/demo/iframe_motion_squeeze/best.pt
"""


def main() -> None:
    """Parse the options, read the video, write the pictures."""
    arguments = parser(
        "Write a picture of a video: I-frames with the box, the density that it was found in, motion vectors as\n"
        "arrows, and what each stream sees after the crop. If asked, also the video with the box on every frame, and\n"
        "the motion that a trained MotionSqueeze network finds beside the codec's.",
        EXAMPLES,
    )
    arguments.add_argument("input", metavar="VIDEO", help="any video with motion vectors (H.264, MPEG-4, ...)")
    arguments.add_argument("--output", type=Path, metavar="PNG", help="picture (default: <name>_crop.png here)")
    arguments.add_argument("--video", type=Path, metavar="MP4", help="annotated video to write")
    arguments.add_argument("--area-ratio", type=float, default=None, help="share of the frame that the box covers")
    arguments.add_argument("--iframes", type=int, default=4, help="how many to show (%(default)s)")
    arguments.add_argument(
        "--checkpoint",
        metavar="FILE",
        help="of an I-frame stream with MotionSqueeze: write <output>_motion.png, its displacement beside the codec's",
    )
    arguments.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="any setting of MoCrop"
    )
    given = arguments.parse_args()
    ratio = [] if given.area_ratio is None else [f"area_ratio={given.area_ratio}"]
    settings = MoCropSettings.from_items([*given.set, *ratio])
    output = given.output or Path(f"{Path(given.input).stem}_crop.png")
    require_picture(output)
    if given.video:
        require_writable(given.video)
        if given.video.resolve() == Path(given.input).resolve():
            raise VideoError(f"--video {given.video}: would replace the video it is made from; choose another name")
    stream = load_stream(given.checkpoint) if given.checkpoint else None
    with open_video(given.input) as video:
        view = inspect_clip(video, settings, iframes=given.iframes)
        title = f"{short_name(given.input)}: MoCrop {settings.preset}, box of {view.box.area:.0%} of the frame"
        save_figure(view.figure(title), output)
        x0, y0, x1, y1 = view.box
        print(f"box: x {x0:.3f} to {x1:.3f}, y {y0:.3f} to {y1:.3f}, {view.box.area:.1%} of the frame; wrote {output}")
        if given.video:
            print(f"wrote {given.video}: {annotate_video(video, given.video, view.box)} frames")
    if stream is not None:
        data = stream.config.data
        with open_video(given.input, data.backend, data.anchor_every) as video:
            motion = inspect_motion(video, stream, view.box if stream.config.crops else None)
        picture = output.with_name(f"{output.stem}_motion{output.suffix}")
        save_figure(motion.figure(short_name(given.input)), picture)
        print(f"wrote {picture}: {len(motion.displacement)} steps, mean confidence {motion.confidence.mean():.2f}")


if __name__ == "__main__":
    run(main)
