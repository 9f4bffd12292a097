"""What the doctor says of replicas: whether this machine has what they are configured to take. Changes nothing."""

from runtime.cluster.doctor import Finding


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
