"""The compiled reader on broken documents, built with the compiler's sanitizers: no access outside of what it has."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from runtime.data import json_rows

SOURCE = Path(json_rows.__file__).with_name("_json_rows.c")
SANITIZERS = ("libasan.so", "libubsan.so")
FUZZ = """
import importlib.util, random, sys
spec = importlib.util.spec_from_file_location("_json_rows", sys.argv[1])
reader = importlib.util.module_from_spec(spec)
spec.loader.exec_module(reader)
generator = random.Random(3)
keys, kinds = (b'"speed"', b'"carrier"', b'"key"', b'"hour"'), b"ntin"
row = b'{"speed":-12345678.901234567,"carrier":"AA\\xc3\\xa9","key":null,"hour":9007199254740993.5e-3}'
good = b"[" + b",".join([row] * 9) + b"]"
taken = 0
for _ in range(30_000):
    body = bytearray(good)
    for _ in range(generator.randint(0, 3)):
        at = generator.randrange(len(body) or 1)
        piece = generator.randbytes(3) if generator.random() < 0.5 else generator.choice(
            [b'"', b"{", b"}", b",", b"9" * 30, b"\\\\", b"nul", b"null", b".", b"-", b"0" * 70, b" "])
        body[at : at + generator.choice([0, 1, 5, 40])] = piece
    if generator.random() < 0.3:
        del body[generator.randrange(len(body) + 1):]
    # A copy of its own, so that one byte too far is outside.
    found = reader.read_rows(bytes(body), min(1, len(body)), keys, kinds, 1, 10_000)
    taken += found is not None
assert 3_000 < taken < 27_000, taken
"""


def test_nothing_outside_of_a_document_is_touched(tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if compiler is None or not header.exists():
        pytest.skip("no C compiler, or no headers of Python")
    libraries = [
        subprocess.check_output([compiler, f"-print-file-name={name}"], text=True).strip() for name in SANITIZERS
    ]
    if not all(Path(library).is_absolute() for library in libraries):
        pytest.skip("the compiler has no sanitizers")
    built = tmp_path / "_json_rows.so"
    options = ["-O1", "-g", "-std=c11", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    sanitize = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    subprocess.run([compiler, *options, *sanitize, f"-I{header.parent}", str(SOURCE), "-o", str(built)], check=True)
    # Python's own allocator would hide what lies between two objects.
    environment = {"LD_PRELOAD": " ".join(libraries), "ASAN_OPTIONS": "detect_leaks=0", "PYTHONMALLOC": "malloc"}
    subprocess.run([sys.executable, "-c", FUZZ, str(built)], env=os.environ | environment, check=True, timeout=120)
