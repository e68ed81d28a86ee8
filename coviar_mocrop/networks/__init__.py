"""Networks: torchvision backbones over segments, temporal shift, MotionSqueeze, CLIP, converted checkpoints."""
