"""VSI-Bench: its files in their published layout, its questions, its frames, its scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_gen.vsi_bench import make_suite, video_frames
from depthlm.cli import main
from depthlm.errors import DepthLMError
from depthlm.suite import read_suite
from eval.vsi_bench import TASKS, mean_relative_accuracy, points_of, score_rows, table

LENGTH = 31
ROWS: list[dict[str, Any]] = [
    {"question_type": "object_counting", "question": "How many chairs are in this room?", "ground_truth": "4"},
    {
        "question_type": "object_abs_distance",
        "question": "Distance of sofa and table, in metres?",
        "ground_truth": "2.5",
    },
    {"question_type": "object_size_estimation", "question": "Longest side of the bed, in cm?", "ground_truth": "200"},
    {
        "question_type": "room_size_estimation",
        "question": "Size of this room, in square metres?",
        "ground_truth": "20.0",
    },
    {"question_type": "object_rel_distance", "question": "Which is closest to the door?", "ground_truth": "B"},
    {"question_type": "object_rel_direction_easy", "question": "Left or right?", "ground_truth": "A"},
    {"question_type": "object_rel_direction_hard", "question": "Where is it?", "ground_truth": "D"},
    {"question_type": "route_planning", "question": "What fills in the route?", "ground_truth": "C"},
    {"question_type": "obj_appearance_order", "question": "In which order do they appear?", "ground_truth": "A"},
]


def write_video(path: Path, shade: int) -> None:
    """Frame i has the grey level shade + 4 i."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=30)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 64, 48, "yuv420p", 4_000_000
        for i in range(LENGTH):
            pixels = np.full((48, 64, 3), shade + 4 * i, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))


def published(folder: Path, form: str = "jsonl", **changes: Any) -> Path:
    """The dataset's folder: two scenes, one of which has no video."""
    options = ["A. chair", "B. table", "C. lamp", "D. bed"]
    rows = []
    for i, row in enumerate(ROWS):
        choice = row["ground_truth"].isalpha()
        scene = (
            {"dataset": "scannet", "scene_name": "scene0011_00"}
            if i % 2
            else {"dataset": "arkitscenes", "scene_name": "4204"}
        )
        rows.append({"id": i, **scene, **row, "options": options if choice else None, "pruned": False})
    rows.append({**rows[0], "id": 99, "scene_name": "lost"})
    rows[0] |= changes
    folder.mkdir(parents=True, exist_ok=True)
    if form == "jsonl":
        (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        pq.write_table(pa.Table.from_pylist(rows), folder / "test-00000-of-00001.parquet")
    write_video(folder / "scannet" / "scene0011_00.mp4", 20)
    write_video(folder / "arkitscenes" / "4204.mp4", 60)
    return folder


def test_frames_go_from_the_first_to_the_last(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", 20)
    found = [float(frame.mean()) for frame in video_frames(tmp_path / "v.mp4", 4)]
    assert found == pytest.approx([20, 60, 100, 140], abs=3)
    assert len(video_frames(tmp_path / "v.mp4", 40)) == 40
    with pytest.raises(DepthLMError, match="no such video"):
        video_frames(tmp_path / "none.mp4", 4)
    (tmp_path / "torn.mp4").write_bytes((tmp_path / "v.mp4").read_bytes()[:300])
    with pytest.raises(DepthLMError, match="can't be decoded"):
        video_frames(tmp_path / "torn.mp4", 4)


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_the_published_files_become_a_suite(form: str, tmp_path: Path) -> None:
    suite, report = make_suite(published(tmp_path / "vsi", form), tmp_path / "suite", frames=3)
    assert len(suite.items) == len(ROWS) and report.counts == {"no video": 1}
    by_kind = {item.kind: item for item in suite.items}
    number, choice = by_kind["object_counting"], by_kind["object_rel_distance"]
    assert number.question.splitlines() == [
        "These are frames of a video.",
        "How many chairs are in this room?",
        "Please answer the question using a single word or phrase.",
    ]
    assert choice.question.splitlines()[1:4] == ["Which is closest to the door?", "Options:", "A. chair"]
    assert (choice.answer, choice.truth, choice.unit) == ("B", 2.0, "choice")
    assert [np.asarray(Image.open(path)).mean() for path in number.image_paths] == pytest.approx([60, 120, 180], abs=3)
    assert read_suite(tmp_path / "suite").hash == suite.hash


def test_mean_relative_accuracy_by_hand() -> None:
    assert mean_relative_accuracy(4, 4) == 1
    assert mean_relative_accuracy(5, 4) == pytest.approx(0.6)  # 25% off: within 50, 45, 40, 35, 30 and 25%
    assert mean_relative_accuracy(3.9, 4) == 1
    assert mean_relative_accuracy(2, 4) == pytest.approx(0.1)
    assert mean_relative_accuracy(1.9, 4) == 0
    assert mean_relative_accuracy(9, 4) == 0
    assert mean_relative_accuracy(float("nan"), 4) == 0


def test_what_counts_as_an_answer(tmp_path: Path) -> None:
    suite, _ = make_suite(published(tmp_path / "vsi"), tmp_path / "suite", frames=1)
    by_kind = {item.kind: item for item in suite.items}
    distance, choice = by_kind["object_abs_distance"], by_kind["object_rel_distance"]
    assert [points_of(distance, text) for text in ("2.5", "2.5 metres.", "2.5.")] == [(1.0, True)] * 3
    assert [points_of(distance, text) for text in ("about 2.5", "", None)] == [(0.0, False)] * 3
    texts = ("B", "b.", "B. table", "A", "table", "7", "", None)
    assert [points_of(choice, text)[0] for text in texts] == [1, 1, 1, 0, 0, 0, 0, 0]
    assert [points_of(choice, text)[1] for text in texts] == [True] * 4 + [False] * 4


def test_scores_are_means_over_types_then_tasks(tmp_path: Path) -> None:
    suite, _ = make_suite(published(tmp_path / "vsi"), tmp_path / "suite", frames=1)
    texts = {item.id: item.answer for item in suite.items if item.kind != "object_rel_direction_hard"}
    rows = score_rows(suite.items, texts)
    found = {row["key"]: row for row in rows}
    assert found["Rel. Dir."]["score"]["value"] == 0.5 and found["Rel. Dir."]["missing"] == 1
    assert found["all"]["score"]["value"] == pytest.approx((7 + 0.5) / 8)
    assert set(found) == {"all", *TASKS}
    shown = table([("mine", rows)]).splitlines()
    assert shown[0].split("|")[2].strip() == "Avg."
    assert [cell.strip() for cell in shown[2].split("|")[1:4]] == ["mine", "93.8", "100.0"]


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = published(tmp_path / "vsi")
    assert main(["data", "vsi-bench", str(source), "--out", str(tmp_path / "suite"), "--frames", "2"]) == 0
    assert "9 questions" in capsys.readouterr().out
    words = ["eval", "run", str(tmp_path / "suite"), "--baseline", "truth", "--out", str(tmp_path / "results")]
    assert main(words) == 0
    assert "score 1.000 (1.000 to 1.000), 9 questions" in capsys.readouterr().out
    result = tmp_path / "results" / "truth" / "result.jsonl"
    assert main(["eval", "vsi-bench", str(result)]) == 0
    assert "| truth | 100.0 |" in capsys.readouterr().out
    assert main(["eval", "leaderboard", str(tmp_path / "results"), "--out", str(tmp_path / "board")]) == 0
    markdown = (tmp_path / "board" / "leaderboard.md").read_text(encoding="utf-8")
    assert "| truth (baseline) | 100.0 (100.0–100.0) |" in markdown
    words = ["eval", "pictures", str(tmp_path / "suite"), "--results", str(tmp_path / "results")]
    assert main([*words, "--out", str(tmp_path / "pictures")]) == 2
    assert "depthlm eval vsi-bench" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"scene_name": "../../etc/passwd"}, "is no file name"),
        ({"dataset": ".."}, "is no file name"),
        ({"question_type": "object_colour"}, "'object_colour' is not known"),
        ({"ground_truth": "four"}, "'four' is no number"),
        ({"question_type": "route_planning", "options": ["A. x"], "ground_truth": "B"}, "none of its options"),
        ({"question": None}, "lacks question"),
    ],
)
def test_rows_that_cannot_be_are_refused(changes: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(DepthLMError, match=told):
        make_suite(published(tmp_path / "vsi", **changes), tmp_path / "suite")


def test_folders_that_are_not_it(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DepthLMError, match="holds neither"):
        make_suite(tmp_path / "empty", tmp_path / "suite")
    (tmp_path / "empty" / "test.jsonl").write_text("{torn\n")
    with pytest.raises(DepthLMError, match="line 1"):
        make_suite(tmp_path / "empty", tmp_path / "suite")
    (tmp_path / "parquet").mkdir()
    (tmp_path / "parquet" / "test.parquet").write_bytes(b"PAR1")
    with pytest.raises(DepthLMError, match="can't be read"):
        make_suite(tmp_path / "parquet", tmp_path / "suite")
