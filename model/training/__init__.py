"""Training: torchvision's Mask R-CNN and its losses around our trunk, and the crops it learns from."""
