"""How a lack of memory shows."""

import torch

_SAYS = (  # torch has no type for these
    "can't allocate memory",  # its allocator of a CPU
    "could not create a primitive",  # oneDNN, where it cannot have its scratch memory
    "could not create a memory",
    "std::bad_alloc",
    "CUBLAS_STATUS_ALLOC_FAILED",
)


def is_short(error: BaseException | None) -> bool:
    """Whether torch, one of its libraries or Python asked for more memory than there is."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(says in str(error) for says in _SAYS)
