"""MATLAB files: without the packages that read them, the reader says which extra to install."""

import sys

import pytest

from data_gen.readers.mat_files import load_mat, open_hdf5
from depthlm.errors import DepthLMError


@pytest.mark.parametrize(
    ("package", "read"),
    [("scipy.io", lambda root: load_mat(root, "a.mat", "split")), ("h5py", lambda root: open_hdf5(root, "a.mat"))],
)
def test_without_its_package_the_extra_is_named(tmp_path, monkeypatch, package, read):
    (tmp_path / "a.mat").write_bytes(b"")
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    with pytest.raises(DepthLMError, match=r"is needed to read \.mat files \(pip install 'depthlm\[mat\]'\)") as caught:
        read(tmp_path)
    assert caught.value.kind == "missing package"
