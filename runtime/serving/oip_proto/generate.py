"""Writes inference_pb2.py and its types out of inference.proto. A developer's tool: it needs grpcio-tools."""

from importlib import import_module
from pathlib import Path

from runtime.core.errors import TealError

HERE = Path(__file__).parent
OWN_POOL = "_descriptor_pool.DescriptorPool()"


def generate() -> None:
    protoc = import_module("grpc_tools.protoc")
    if protoc.main(["protoc", f"-I{HERE}", f"--python_out={HERE}", f"--pyi_out={HERE}", str(HERE / "inference.proto")]):
        raise TealError(f"protoc failed on {HERE / 'inference.proto'}")
    # A pool of its own: other packages, as tritonclient, bring messages of the same names into the default one.
    path = HERE / "inference_pb2.py"
    path.write_text(path.read_text().replace("_descriptor_pool.Default()", OWN_POOL))


if __name__ == "__main__":
    generate()
