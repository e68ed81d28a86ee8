"""Read I-frames, motion vectors, accumulated motion and residuals from compressed video, without torch."""

from coviar_mocrop.bitstream.frame_view import FrameView
from coviar_mocrop.bitstream.transcode import transcode
from coviar_mocrop.bitstream.types import MOTION_VECTOR_DTYPE, Gop, Kind, VideoInfo
from coviar_mocrop.bitstream.video import Video, open_video

__all__ = ["MOTION_VECTOR_DTYPE", "FrameView", "Gop", "Kind", "Video", "VideoInfo", "open_video", "transcode"]
