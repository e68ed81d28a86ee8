"""Action recognition straight from compressed video.

Three 2-D networks look at what a codec already found (I-frames, motion vectors, residuals), share one
motion-guided crop per clip (MoCrop) and are fused late (CoViAR).
"""

__version__ = "0.1.0"
