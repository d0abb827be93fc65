"""Faces as tensors: pre-training, publishing, fine-tuning and using facial expression models."""

__version__ = "0.1.0"
