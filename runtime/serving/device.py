"""Where a slot's model computes: on the CPU, or on the GPU of which Ray gave its replica a whole or a part."""

import torch
from torch import nn

from runtime.core.errors import ConfigError


def place_model(model: nn.Module, gpus_per_replica: float) -> None:
    """Move the model to the replica's GPU, if it was given any of one. ConfigError if torch sees none.

    Ray lets a process see its own GPUs alone, so it is always the first. A part of one is a part of its memory too:
    replicas that share a GPU must not take it from one another.
    """
    if not gpus_per_replica:
        return
    if not torch.cuda.is_available():
        raise ConfigError(
            f"serving.gpus_per_replica is {gpus_per_replica:g} but torch {torch.__version__} sees no GPU in this "
            "replica; install a torch with CUDA on its node or set it to 0"
        )
    if gpus_per_replica < 1:
        torch.cuda.set_per_process_memory_fraction(gpus_per_replica)
    model.to("cuda")
