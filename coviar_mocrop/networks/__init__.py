"""Networks: torchvision and timm backbones, temporal shift, MotionSqueeze, CLIP, and weights of other projects."""
