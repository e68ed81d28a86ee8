"""Errors that a user can cause. All derive from :class:`CoviarMocropError`.

Each message is one line, names the file or setting, and says what to do. The message is the only argument of each
class, so data-loading processes can pass errors on unchanged.
"""

from __future__ import annotations


class CoviarMocropError(Exception):
    """Base class of all errors caused by the user's input: files, lists, settings, checkpoints.

    It is raised itself if a file cannot be written or an optional package is not installed.
    """


class VideoError(CoviarMocropError):
    """A video cannot be opened, decoded or encoded, or does not have the frames that were asked for."""


class NoMotionVectorsError(VideoError):
    """A video has no motion vectors.

    FFmpeg exports none for its codec (HEVC, VP9, AV1, intra-only codecs), or the video has key frames only.
    """

    def advising(self, remedy: str) -> NoMotionVectorsError:
        """Return the error with another remedy than transcoding the video by hand, such as an option of a command."""
        return NoMotionVectorsError(f"{str(self).partition('; transcode it')[0]}; {remedy}")


class ConfigError(CoviarMocropError):
    """A setting or an argument is unknown, of the wrong type or out of range."""


class ListError(CoviarMocropError):
    """A video list or class list is missing or cannot be parsed."""


class DataError(CoviarMocropError):
    """The folder or the shards of a data set are not as expected, or none of its clips can be used."""


class CheckpointError(CoviarMocropError):
    """A checkpoint, an export or a weights file is missing, damaged, unsafe to load or of another architecture."""


class ScoreError(CoviarMocropError):
    """A score file is missing or damaged, score files do not belong together, or a fusion weight is invalid."""


class ModelError(CoviarMocropError):
    """A network is unknown, cannot be built or exported, or does not fit its stream or its input."""


class Interrupted(CoviarMocropError):
    """Training was stopped by Ctrl-C or a signal. All completed steps are saved."""
