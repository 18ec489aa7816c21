"""MATLAB and HDF5 files, by packages that are imported only when a reader needs them (the extra ``mat``)."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_gen.readers.paths import inside, read_bytes
from depthlm.errors import DepthLMError
from depthlm.frame import MAX_IMAGE_PIXELS


def _missing(package: str, error: ImportError, files: str = ".mat files") -> DepthLMError:
    return DepthLMError(package, f"is needed to read {files}", "pip install 'depthlm[mat]'", "missing package")


def load_mat(root: Path, name: str | Path, what: str) -> dict[str, Any]:
    """The variables of a MATLAB file of version 4 to 7.2.

    Raises:
        DepthLMError: scipy is not installed; as `read_bytes`; or it is no such file (kind ``unreadable WHAT``).
    """
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise _missing("scipy", error) from error
    data = read_bytes(root, name, what)
    try:
        return loadmat(io.BytesIO(data))
    except Exception as error:  # scipy raises many types for broken files, NotImplementedError for version 7.3
        raise DepthLMError(
            root / name, f"can't be read as a .mat file: {error}", "download it again", f"unreadable {what}"
        ) from error


def open_hdf5(root: Path, name: str | Path) -> Any:
    """A MATLAB file of version 7.3 as an open ``h5py.File``; MATLAB's axes come in reverse order.

    Raises:
        DepthLMError: h5py is not installed; outside the root; no such file; no HDF5, or cut off.
    """
    try:
        import h5py
    except ImportError as error:
        raise _missing("h5py", error) from error
    path = inside(root, name)
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise DepthLMError(
            path, f"can't be read as a .mat file of version 7.3: {error}", "download it again"
        ) from error


def hdf5_array(root: Path, name: str | Path, dataset: str, what: str) -> NDArray[Any]:
    """One numeric array of an HDF5 file, in the file's own type.

    Raises:
        DepthLMError: h5py is not installed; as `read_bytes`; it is no HDF5, cut off, or lacks the ``dataset`` (kind
            ``unreadable WHAT``); the array is none of numbers or larger than any image (kind ``bad WHAT``).
    """
    try:
        import h5py
    except ImportError as error:
        raise _missing("h5py", error, "HDF5 files") from error
    data = read_bytes(root, name, what)
    try:
        with h5py.File(io.BytesIO(data), "r") as file:
            found = file[dataset]
            if found.dtype.kind not in "iuf" or found.size > MAX_IMAGE_PIXELS:  # a small file can unpack to any size
                reason = f"holds {found.dtype} of shape {found.shape} as {dataset}"
                raise DepthLMError(root / name, reason, "restore it", f"bad {what}")
            return np.asarray(found[()])
    except DepthLMError:
        raise
    except Exception as error:  # h5py raises many types for broken files
        raise DepthLMError(
            root / name, f"can't be read as HDF5: {error}", "download it again", f"unreadable {what}"
        ) from error
