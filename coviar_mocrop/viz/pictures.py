"""A few clips for TensorBoard: with their boxes, and with the motion that a network finds in them."""

from __future__ import annotations

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from coviar_mocrop.bitstream import open_video
from coviar_mocrop.clips.config import DataConfig
from coviar_mocrop.clips.dataset import ClipDataset
from coviar_mocrop.clips.sampling import middle_frames, places
from coviar_mocrop.datasets.lists import VideoList
from coviar_mocrop.errors import VideoError
from coviar_mocrop.files import DataRoot
from coviar_mocrop.mocrop import MoCropSettings, density_of
from coviar_mocrop.mocrop.estimate import box_of_density
from coviar_mocrop.networks.stream_net import StreamNet
from coviar_mocrop.viz.figures import crop_figure
from coviar_mocrop.viz.motion_picture import look_at_motion


def log_crops(
    board: SummaryWriter,
    videos: VideoList,
    data: DataConfig,
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


def log_displacement(
    board: SummaryWriter, model: StreamNet, dataset: ClipDataset, epoch: int, epochs: int, count: int = 2
) -> None:
    """Write MotionSqueeze's displacement beside the codec's motion for ``count`` clips spread over the data set.

    After the epochs 1, 2, 4, 8, ... and the last of ``epochs``; nothing for networks without MotionSqueeze.
    """
    if model.motion_squeeze is None or dataset.kind not in ("iframe", "frame"):
        return
    if epoch & (epoch - 1) and epoch != epochs:
        return
    root = DataRoot(dataset.data.root, follow_links=dataset.data.follow_links)
    for number in np.unique(np.linspace(0, len(dataset) - 1, count).round().astype(int)):
        name = dataset.videos.clips[number].path
        box = dataset.boxes.get(name) if dataset.boxes is not None else None
        facts = (dataset.kind, dataset.size, dataset.inputs, dataset.data)
        try:
            view = look_at_motion(root.find(name)[0], model, *facts, box)
        except VideoError:
            continue
        board.add_figure(f"displacement/{name}", view.figure(name), epoch)
