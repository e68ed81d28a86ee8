"""Every error that a user can cause. All derive from :class:`CoviarMocropError`.

Messages are one line, name the file (or setting) and say what to do about it. Each class takes that
one message only, so that an error crosses process borders (data loading workers) unchanged.
"""

from __future__ import annotations


class CoviarMocropError(Exception):
    """Base of all errors caused by input: files, lists, settings, checkpoints."""


class VideoError(CoviarMocropError):
    """A video cannot be opened or decoded."""


class NoMotionVectorsError(VideoError):
    """The video's codec exports no motion vectors (HEVC, VP9, AV1, intra-only codecs)."""


class ConfigError(CoviarMocropError):
    """A setting is unknown, of the wrong type or out of range."""


class ListError(CoviarMocropError):
    """A video list or class list is missing or does not parse."""


class DataError(CoviarMocropError):
    """A data set's folder is not as expected, or none of its clips can be used."""


class CheckpointError(CoviarMocropError):
    """A checkpoint or weights file is missing, damaged, unsafe or of another architecture."""


class ScoreError(CoviarMocropError):
    """A score file is missing or damaged, or score files do not belong together."""


class ModelError(CoviarMocropError):
    """A backbone is unknown or does not fit the stream it is asked to serve."""


class Interrupted(CoviarMocropError):
    """Somebody ended the run; what it had done is saved."""
