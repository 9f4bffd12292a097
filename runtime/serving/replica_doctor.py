"""What the doctor says of replicas: whether this machine has what they are configured to take. Changes nothing."""

from runtime.cluster.doctor import Finding
from runtime.data.json_rows import IS_COMPILED


def examine_gpus(gpus_per_replica: float) -> list[Finding]:
    """What the doctor says of this machine's GPUs where replicas are to have them."""
    if not gpus_per_replica:
        return []
    import torch

    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    detail = f"torch {torch.__version__} sees {found} GPUs here, each replica takes {gpus_per_replica:g}"
    if found:
        return [Finding(name="gpus", status="ok", detail=detail)]
    return [
        Finding(
            name="gpus",
            status="warning",
            detail=f"{detail}: replicas wait for a node that has one",
            remedy="install the driver and a torch with CUDA, add such a node, or set serving.gpus_per_replica=0",
        )
    ]


def examine_reader(*, is_compiled: bool = IS_COMPILED) -> Finding:
    """Whether many rows as JSON are read by native code."""
    if is_compiled:
        return Finding(name="json reader", status="ok", detail="native code reads many rows as JSON")
    return Finding(
        name="json reader",
        status="warning",
        detail="is missing, as teal was installed without a C compiler: many rows as JSON take three times the CPU",
        remedy="install one and Python's headers (Debian: gcc, python3-dev), then teal again",
    )
