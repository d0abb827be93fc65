"""Faces as tensors: pre-training, publishing, fine-tuning and using facial expression models."""

import os

__version__ = "0.1.0"

if not os.environ.get("HF_ENDPOINT", "unset"):
    del os.environ["HF_ENDPOINT"]  # huggingface_hub, which reads it at its import, would ask a Hub without a name
