"""What the web page keeps from its visitors, and what the command that serves it does; no browser is needed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from demo_page import at_page, photo_file

from depthlm.cli import main
from depthlm.errors import DepthLMError
from depthlm.serving.demo.actions import Actions
from depthlm.serving.demo.cloud import write_solid
from depthlm.serving.demo.command import add, open_local
from depthlm.serving.demo.disk import EACH_BYTES, Disk
from depthlm.serving.demo.picture import Form, Picture
from depthlm.serving.demo.text import problem_text

pytest.importorskip("gradio")


def test_the_server_gives_out_nothing_else(url, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    with httpx.Client(base_url=url, timeout=10) as client:
        home = client.get("/")
        assert home.status_code == 200 and "default-src 'self'" in home.headers["content-security-policy"]
        for path in (
            f"/gradio_api/file={secret}",
            f"/gradio_api/file={Path.cwd() / 'pyproject.toml'}",
            "/gradio_api/file=http://127.0.0.1:1/",
            "/gradio_api/proxy=http://127.0.0.1:1/",
            "/gradio_api/vibe-code",
            "/gradio_api/runs",
            "/monitoring",
            "/docs",
        ):
            assert client.get(path).status_code in (403, 404), path
        for stolen in ({"path": str(secret)}, {"path": "x", "url": f"file://{secret}"}):
            assert not call(client, "photo", [stolen | {"meta": {"_type": "gradio.FileData"}}, "distance"])["success"]
        large = client.post("/gradio_api/upload", files={"files": ("a.jpg", bytes(43_000_000))})
        assert large.status_code == 413
        several = client.post("/gradio_api/upload", files=[("files", ("a.jpg", bytes(30_000_000)))] * 2)
        assert several.status_code == 413
        endless = client.post("/gradio_api/upload", content=iter([b"piece"]), headers={"Content-Type": "text/plain"})
        assert endless.status_code == 413


def test_a_visitor_can_not_name_a_file_of_the_host(url, tmp_path):
    secret, folder = tmp_path / "secret.png", tmp_path / "folder"
    secret.write_bytes(photo_file(exif=False))
    folder.mkdir()
    with httpx.Client(base_url=url, timeout=30) as client:
        (own,) = client.post("/gradio_api/upload", files={"files": ("a.jpg", photo_file())}).json()
        outside = [secret, tmp_path / "none.png", folder, "/etc/passwd", f"{own}/../../../../{secret}", "", "a\0b"]
        told = [call(client, "photo", [{"path": str(path)}, "distance"])["output"]["data"] for path in outside]
        assert all(each == told[0] for each in told), "whether a file exists is not told"
        assert told[0][0] is None and told[0][1] is None and "Photo: is no longer here" in json.dumps(told[0])
        assert call(client, "photo", [{"path": own}, "distance"])["output"]["data"][1]["path"], "the photo is shown"
        form = ["camera_motion", 2.0, "photo", 70, ""]
        told = [call(client, "ask", [None, *form, {"path": str(path)}])["output"]["data"] for path in outside[:-1]]
        assert all(each == told[0] for each in told) and "Photo: is no longer here" in told[0][0], told
        assert "of its answers" in call(client, "ask", [None, *form, {"path": own}])["output"]["data"][0]


def test_nothing_is_fetched_for_a_visitor(url, monkeypatch):
    fetched = []

    async def fetch(address: str, cache_dir: str) -> str:
        fetched.append(address)
        return address

    monkeypatch.setattr("gradio.processing_utils.async_ssrf_protected_download", fetch)
    named = {"path": "http://example.org/a.jpg", "meta": {"_type": "gradio.FileData"}}
    with httpx.Client(base_url=url, timeout=30) as client:
        for data in ([named, "distance"], [None, named]):
            assert not call(client, "photo", data)["success"]
    assert fetched == []


def call(client: httpx.Client, name: str, data: list[Any]) -> dict[str, Any]:
    """What comes of an event of a part, sent without the page: its first one."""
    config = client.get("/config").json()
    (part,) = [each["id"] for each in config["components"] if each["props"].get("elem_id") == name]
    event = next(each for each in config["dependencies"] if each["targets"] and each["targets"][0][0] == part)
    body = {"data": data, "fn_index": event["id"], "session_hash": "abc"}
    assert client.post("/gradio_api/queue/join", json=body).status_code == 200
    with client.stream("GET", "/gradio_api/queue/data", params={"session_hash": "abc"}) as stream:
        told = next(line for line in stream.iter_lines() if "process_completed" in line)
    return json.loads(told.removeprefix("data: "))


def test_an_old_file_goes_before_a_new_one_comes(tmp_path):
    disk = Disk(tmp_path, most=10 * (100_000 + EACH_BYTES))
    (disk.uploads / "own.jpg").write_bytes(bytes(100_000))
    disk.keep()
    for i in range(20):
        folder = disk.new_folder(100_000 + EACH_BYTES)
        (folder / f"{i}.jpg").write_bytes(bytes(100_000))
        disk.read(next(disk.uploads.glob("*/0.jpg")))
        time.sleep(0.01)  # the clock of files is coarse
    left = {path.name for path in disk.uploads.rglob("*.jpg")}
    assert left == {"own.jpg", "0.jpg", *(f"{i}.jpg" for i in range(12, 20))}
    assert len(list(disk.uploads.iterdir())) == 10, "no empty folders"


def test_uploads_are_bounded(monkeypatch, tmp_path):
    monkeypatch.setattr("depthlm.serving.demo.disk.MOST_BYTES", 3_000_000)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    with at_page(open_local, "nano") as url, httpx.Client(base_url=url, timeout=30) as client:
        (uploads,) = tmp_path.glob("depthlm-demo-*/uploads")
        page_own = {path for path in uploads.rglob("*") if path.is_file()}
        for i in range(10):
            (own,) = client.post("/gradio_api/upload", files={"files": ("a.jpg", bytes([i]) * 700_000)}).json()
        assert Path(own).exists() and all(path.exists() for path in page_own), "the examples stay"
        assert sum(path.stat().st_size for path in uploads.rglob("*") if path.is_file()) < 3_700_000
    assert "GRADIO_TEMP_DIR" not in os.environ or not os.environ["GRADIO_TEMP_DIR"].startswith(str(tmp_path))


def test_problems_do_not_tell_the_server_s_files(tmp_path):
    weights = tmp_path / "my model" / "weights.safetensors"
    for error in (
        DepthLMError(weights, "is broken", "restore it"),
        DepthLMError("model", f"can't read {str(weights)!r}: gone", f"see {tmp_path}/a.log"),
        DepthLMError(r"C:\models\a", r"\\host\share\x is away", "look at ../b/c and ~/d."),
        DepthLMError("http://10.0.0.1:8000/v1", "connection to http://10.0.0.1:8000/v1 failed: refused"),
    ):
        text = problem_text(error).removesuffix("</p>")
        assert not re.search(r"[/\\]|weights|my model|10\.0|share", text), text
    assert problem_text(DepthLMError("speed", "9 m/s is too fast", "walk")).count("Speed: 9 m/s is too fast; walk.")


def test_a_click_between_pixels():
    picture = Picture(Path("x"), 5, 4, photo_file(50, 40))
    assert picture.clicked(25, 20, 2).points == ((2.0, 1.5),)
    assert picture.clicked(0, 0, 2).points == ((0.0, 0.0),) and picture.clicked(50, 40, 2).points == ((4.0, 3.0),)
    twice = picture.clicked(25, 20, 2).clicked(5, 4, 2)
    assert len(twice.points) == 2 and len(twice.clicked(10, 10, 2).points) == 1
    assert picture.clicked(25, 20, 0).points == ()


def test_forms_that_are_no_camera():
    assert Form("distance").lens().camera(10, 10) is None
    assert Form("distance", camera="intrinsics", intrinsics=" 100;100, 4.5 ,4.5").lens().intrinsics == (
        100,
        100,
        4.5,
        4.5,
    )
    for wrong in ("", "nan", "1,2,3", "1 2 3 4 5", "a"):
        with pytest.raises(DepthLMError, match="numbers"):
            Form("distance", camera="intrinsics", intrinsics=wrong).lens()
    with pytest.raises(DepthLMError, match="field of view"):
        Form("distance", camera="fov", fov=None).lens()


def test_a_photo_that_was_thrown_away(tmp_path):
    with pytest.raises(DepthLMError, match="no longer here"):
        Actions(None, None, Disk(tmp_path)).ask(Picture(tmp_path / "gone.jpg", 8, 8, b""), Form("distance"))  # type: ignore[arg-type]


def test_points_as_squares_keep_their_place(tmp_path):
    import trimesh

    write_solid(tmp_path / "a.glb", np.array([(0.0, 0, 2), (1, -0.5, 4)]), np.array([(255, 0, 0), (0, 255, 0)]), 0.1)
    (mesh,) = trimesh.load(tmp_path / "a.glb").geometry.values()
    assert mesh.vertices.reshape(2, 4, 3).mean(1) == pytest.approx(np.array([(0, 0, -2), (1, 0.5, -4)]))
    assert np.ptp(mesh.vertices[:4, 0]) == pytest.approx(0.92 * 0.2)


@pytest.mark.parametrize(("told", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_the_command(tmp_path, told, status):
    # what is started in the background is deaf to SIGINT, and so would be its children
    program = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    program += "from depthlm.cli import main; from depthlm.serving.demo.command import add; "
    program += "sys.exit(main(sys.argv[1:], {'demo': lambda: add}))"
    command = [sys.executable, "-c", program, "demo", "--port", "0"]
    env = os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env) as process:
        assert process.stderr is not None
        line = next(line for line in process.stderr if "measures at" in line)
        address = re.search(r"http://\S+?(?=;)", line)
        assert address and httpx.get(address[0]).status_code == 200
        process.send_signal(told)
        try:
            assert process.wait(30) == status
        finally:
            process.kill()
    assert not [path for path in tmp_path.iterdir() if "demo" in path.name], "nothing is left behind"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--endpoint", "http://127.0.0.1:9"], "nothing answers"),
        (["--endpoint", "http://127.0.0.1:9", "--vllm"], "--vllm"),
        (["--model", "no/such/folder"], "no/such/folder"),
        (["--host", "192.0.2.1"], "cannot be used"),
    ],
)
def test_bad_use_is_told_in_a_line(arguments, said, capsys):
    assert main(["demo", *arguments], {"demo": lambda: add}) == 2
    assert said in capsys.readouterr().err
