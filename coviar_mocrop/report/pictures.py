"""A few clips with their boxes, for TensorBoard."""

from __future__ import annotations

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from coviar_mocrop.bitstream import open_video
from coviar_mocrop.data.lists import VideoList
from coviar_mocrop.data.segments import middle_frames, places
from coviar_mocrop.data.settings import DataSettings
from coviar_mocrop.errors import VideoError
from coviar_mocrop.files import DataRoot
from coviar_mocrop.mocrop import MoCropSettings, density_of
from coviar_mocrop.mocrop.estimate import box_of_density
from coviar_mocrop.report.figures import crop_figure


def log_crops(
    board: SummaryWriter,
    videos: VideoList,
    data: DataSettings,
    mocrop: MoCropSettings,
    count: int = 4,
    iframes: int = 3,
) -> None:
    """Write pictures of I-frames with box and density grid for ``count`` clips spread over the list.

    A clip that cannot be read has none; training will say why.
    """
    root = DataRoot(data.root, follow_links=data.follow_links)
    for number in np.unique(np.linspace(0, len(videos) - 1, count).round().astype(int)):
        clip = videos.clips[number]
        try:
            with open_video(root.find(clip.path)[0], data.backend, data.anchor_every) as video:
                size = (video.info.height, video.info.width)
                density = density_of(video.vectors(), size, mocrop)
                frames = middle_frames(video.info.num_frames, iframes, "iframe")
                pictures = video.read("iframe", places(video.gops, frames, "iframe"))
        except VideoError:
            continue
        figure = crop_figure(list(pictures), box_of_density(density, mocrop, size[1] / size[0]), density, clip.path)
        board.add_figure(f"crops/{clip.path}", figure)
