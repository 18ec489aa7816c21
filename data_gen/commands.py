"""`depthlm data curate | synthetic | freeze | inspect`. Heavy modules are imported when a command runs."""

from __future__ import annotations

import argparse
import inspect
import json
import os
import re
from pathlib import Path
from typing import Any

import yaml

from data_gen.readers import READERS
from depthlm.cli import manual
from depthlm.errors import DepthLMError

CURATE = """\
Reads the dataset SOURCE with a reader and writes a frame store: Parquet shards
with the original image bytes, intrinsics and depth as z in metres. Every image is
decoded once; a frame that is unusable (image missing or truncated, impossible
intrinsics, labels outside the image or not positive) is skipped, counted by
reason, and listed in DIR/report.json.

Stopped at any moment, even by kill -9, the same command goes on where it was.
A store begun with other settings is not touched.
"""
CURATE_EXAMPLES = """\
  depthlm data curate depthlm-jsonl data/frames.jsonl --out stores/mine
  depthlm data curate depthlm-jsonl data/frames.jsonl --out stores/mine \\
      --image-root /data/images --depth-is distance --workers 16
  depthlm data curate depthlm-jsonl /nfs/frames.jsonl --out /nfs/store --engine ray --workers 256
"""
SYNTHETIC = """\
Renders rooms and streets with exact depth, intrinsics and poses: textured, lit,
cluttered, several views a scene, random fields of view. A scene is a function of
the seed and its number alone. Resumable, as `depthlm data curate`.
"""
SYNTHETIC_EXAMPLES = """\
  depthlm data synthetic --out stores/rooms --scenes 500 --kinds room
  depthlm data synthetic --out stores/mixed --scenes 2000 --views 6 --size 640x480 \\
      --fov 40,110 --kinds room=0.5,street=0.5 --distortion --workers 16
"""
FREEZE = """\
Freezes a fixed set of questions from one or several frame stores of your own: a folder
that anyone can open, with a content hash. questions.jsonl holds them, frames/ the images
that they are about, which are drawn in each model's form when it is asked. The kinds are
asked in the proportions of --mix, no label twice.

Suites of several datasets, and the well-known ones, are made by `depthlm data suite`.
"""
FREEZE_EXAMPLES = """\
  depthlm data freeze stores/mine --out suites/mine --count 1000
  depthlm data freeze stores/a stores/b --out suites/ab --count 1000 --seed 7
  depthlm data freeze stores/mine --out suites/near --count 200 \\
      --mix distance=0.5,two_point=0.5 --profile nano
"""
SUITE = """\
RECIPE is one of: {known}; or a YAML file of your own. Copy data_gen/suites/custom.yaml,
where each setting is explained.

  procedural     rendered rooms and streets at three levels of difficulty; needs no download
  depthlm8       distances on the eight evaluation datasets of DepthLM
  depthlm-tasks  its six kinds of question on the same
  custom         the same six kinds on a frame store of your own, --store mine=DIR

Each dataset's frames come from a store that `depthlm data curate` made: --store PART=DIR.
Where the published evaluation took other truths than the true ones, a suite has two forms;
the leaderboard keeps them apart. 10,000 questions a dataset by default.
"""
SUITE_EXAMPLES = """\
  depthlm data suite procedural --out suites/procedural
  depthlm data suite procedural --out suites/small --count 300 --profile nano
  depthlm data suite depthlm8 --out suites/depthlm8 --store ibims1=stores/ibims1 \\
      --store nyuv2=stores/nyuv2 --partial --form as-published
  depthlm data suite my-suite.yaml --out suites/mine --store mine=stores/mine
"""
PUBLISH = """\
Writes SUITE in the form of a Hugging Face dataset: Parquet files with questions, answers and
images, which `datasets.load_dataset` opens and the hub shows, and a card. With --repo it is
uploaded there; `depthlm data fetch` makes the suite again from either, with the same hash.
Mind the licences: the card lists those that the frames state.
"""
PUBLISH_EXAMPLES = """\
  depthlm data publish suites/mine --out published/mine
  depthlm data publish suites/mine --out published/mine --repo me/mine --private
"""
FETCH = """\
Makes a suite's folder from a published one: a folder that `depthlm data publish` wrote, or
a dataset on the hub, OWNER/NAME or OWNER/NAME@REVISION. Its content hash is checked, and
every frame and image against its own.
"""
FETCH_EXAMPLES = """\
  depthlm data fetch published/mine --out suites/mine
  depthlm data fetch me/mine --out suites/mine
"""
INSPECT = """\
Writes index.html (which needs no other file) and its pictures, dataset by dataset:
frames with their labels as dots coloured by depth and with the edges of dense depth;
histograms of depth, field of view, camera motion and labels per frame; where labels
lie; counts, and what curation skipped and dropped. Look at it before training: labels
shifted, mirrored or in another unit are seen at once.
"""
INSPECT_EXAMPLES = """\
  depthlm data inspect stores/mine --out runs/mine
  depthlm data inspect stores/a stores/b --out runs/both --count 30
"""


# What an option's annotation asks of a value; others are checked by their reader.
PLAIN_TYPES: dict[str, tuple[str, Any]] = {
    "int": ("a whole number", int),
    "float": ("a number", (int, float)),
    "bool": ("true or false", bool),
    "str": ("a word", str),
}


VSI_BENCH = """\
FOLDER holds the published test.jsonl or test*.parquet and the unpacked videos DATASET/SCENE.mp4. Questions are asked
word for word; of each video N frames are shown, from the first to the last. Questions without their video are counted.
"""
VSI_BENCH_EXAMPLES = """\
  depthlm data vsi-bench VSI-Bench --out suites/vsi --frames 16
"""


def add(subparsers: Any) -> None:
    """Add ``depthlm data`` to the command line."""
    parser = manual(
        subparsers,
        "data",
        "Make frame stores and suites, and look at them.",
        "A frame store holds images with cameras and measured depth; a suite holds frozen questions.",
        "  depthlm data curate --help",
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    _add_curate(actions)
    _add_synthetic(actions)
    _add_freeze(actions)
    _add_suite(actions)
    _add_publish(actions)
    _add_inspect(actions)
    _add_vsi_bench(actions)


def _add_curate(actions: Any) -> None:
    parser = manual(actions, "curate", "Turn a dataset into a frame store.", CURATE, CURATE_EXAMPLES)
    parser.add_argument("reader", metavar="READER", help=f"one of: {', '.join(READERS.names())}")
    parser.add_argument("source", metavar="SOURCE", type=Path, help="file or folder of the dataset")
    parser.add_argument("--image-root", metavar="DIR", help="folder that image names are relative to")
    parser.add_argument("--depth-is", metavar="KIND", help="what the depth values are: z or distance")
    parser.add_argument("--dataset", metavar="NAME", help="name of the dataset in the store")
    parser.add_argument("--split", metavar="NAME", help="split of the dataset")
    parser.add_argument("--licence", metavar="TEXT", help="licence note, stored with each frame")
    parser.add_argument(
        "--set",
        metavar="OPTION=VALUE",
        action="append",
        type=_option,
        default=[],
        help="any other option of the reader; may be given several times",
    )
    _add_writing(parser)
    parser.set_defaults(run=_curate)


def _add_synthetic(actions: Any) -> None:
    parser = manual(actions, "synthetic", "Render procedural scenes into a frame store.", SYNTHETIC, SYNTHETIC_EXAMPLES)
    parser.add_argument("--scenes", metavar="N", type=int, required=True, help="number of scenes")
    parser.add_argument("--views", metavar="N", type=int, default=4, help="views of each scene (default: 4)")
    parser.add_argument("--size", metavar="WxH", type=_size, default=(320, 240), help="image size (default: 320x240)")
    parser.add_argument("--seed", metavar="S", type=int, default=0, help="seed of everything (default: 0)")
    parser.add_argument(
        "--fov",
        metavar="LOW,HIGH",
        type=_range,
        default=(40.0, 110.0),
        help="range of the horizontal field of view in degrees (default: 40,110)",
    )
    parser.add_argument(
        "--kinds",
        metavar="KIND[=WEIGHT],…",
        type=_weights,
        default={"room": 0.7, "street": 0.3},
        help="kinds of scene and their shares (default: room=0.7,street=0.3)",
    )
    parser.add_argument("--labels", metavar="N", type=int, default=64, help="labelled pixels a frame (default: 64)")
    parser.add_argument("--dense", action="store_true", help="store the dense depth map as well")
    parser.add_argument("--distortion", action="store_true", help="give the cameras lens distortion")
    parser.add_argument("--quality", metavar="Q", type=int, default=95, help="JPEG quality (default: 95)")
    _add_writing(parser)
    parser.set_defaults(run=_synthetic)


def _add_writing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="the store's folder")
    parser.add_argument("--workers", metavar="N", type=int, default=_cores(), help="processes (default: all cores)")
    parser.add_argument(
        "--engine",
        choices=("processes", "ray"),
        default="processes",
        help="processes of this machine, or a Ray cluster that sees the same paths (default: processes)",
    )
    parser.add_argument("--limit", metavar="N", type=int, help="take only the first N frames")
    parser.add_argument(
        "--frames-per-shard", metavar="N", type=int, default=64, help="frames in one Parquet file (default: 64)"
    )


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _add_freeze(actions: Any) -> None:
    parser = manual(actions, "freeze", "Freeze questions into a suite.", FREEZE, FREEZE_EXAMPLES)
    parser.add_argument("stores", metavar="STORE", type=Path, nargs="+", help="frame stores")
    parser.add_argument("--out", metavar="SUITE", type=Path, required=True, help="the suite's folder")
    parser.add_argument("--count", metavar="N", type=int, required=True, help="number of questions")
    parser.add_argument("--seed", metavar="S", type=int, help="seed of the choice (default: 0)")
    parser.add_argument("--mix", metavar="KIND[=WEIGHT],…", type=_weights, help="question kinds and their shares")
    parser.add_argument("--profile", metavar="NAME", help="how the model wants to be asked (default: qwen2.5-vl)")
    parser.add_argument(
        "--also", metavar="NAME,…", type=lambda text: text.split(","), help="profiles that can ask every question too"
    )
    parser.add_argument(
        "--per-image", metavar="N", type=int, help="questions of a kind about an image: of fewer images"
    )
    parser.add_argument("--dense", action="store_true", help="keep dense depth, for metrics of whole depth maps")
    parser.add_argument("--intrinsics", metavar="MODE", help="normalize, text, both or none (default: normalize)")
    parser.add_argument("--pointing", metavar="MODE", help="marker or coordinates in words (default: marker)")
    parser.add_argument(
        "--pair-overlap",
        metavar="MIN,MAX",
        type=_shares,
        help="two images: share of points both see (default: 0.3,0.8)",
    )
    parser.add_argument("--pair-motion-m", metavar="M", type=float, help="two images: least motion (default: 0.1)")
    parser.add_argument("--name", metavar="NAME", help="name of the suite (default: its folder's)")
    parser.set_defaults(run=_freeze)


def _add_suite(actions: Any) -> None:
    known = sorted(path.stem.replace("_", "-") for path in Path(__file__).parent.glob("suites/*.yaml"))
    about = SUITE.format(known=", ".join(known))
    parser = manual(actions, "suite", "Make a suite from a recipe.", about, SUITE_EXAMPLES)
    parser.add_argument("recipe", metavar="RECIPE", help="a recipe's name or file")
    parser.add_argument("--out", metavar="SUITE", type=Path, required=True, help="the suite's folder")
    parser.add_argument(
        "--store", metavar="PART=DIR", action="append", type=_store_of, default=[], help="frame store of a dataset"
    )
    parser.add_argument("--partial", action="store_true", help="leave out datasets that have no store")
    parser.add_argument("--form", metavar="FORM", help="corrected (default) or as-published, where a suite has forms")
    parser.add_argument("--count", metavar="N", type=int, help="questions of each dataset (default: the recipe's)")
    parser.add_argument("--profile", metavar="NAME", help="how the model wants to be asked (default: the recipe's)")
    parser.add_argument("--dense", action="store_true", help="keep dense depth, for metrics of whole depth maps")
    parser.add_argument("--workers", metavar="N", type=int, default=_cores(), help="processes (default: all cores)")
    parser.set_defaults(run=_suite)


def _add_publish(actions: Any) -> None:
    parser = manual(actions, "publish", "Write a suite as a Hugging Face dataset.", PUBLISH, PUBLISH_EXAMPLES)
    parser.add_argument("suite", metavar="SUITE", type=Path, help="the suite's folder")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder to write")
    parser.add_argument("--repo", metavar="OWNER/NAME", help="also upload it to the hub")
    parser.add_argument("--private", action="store_true", help="make the repository private")
    parser.set_defaults(run=_publish)
    parser = manual(actions, "fetch", "Make a suite from a published one.", FETCH, FETCH_EXAMPLES)
    parser.add_argument("source", metavar="SOURCE", help="folder, or OWNER/NAME on the hub")
    parser.add_argument("--out", metavar="SUITE", type=Path, required=True, help="the suite's folder")
    parser.set_defaults(run=_fetch)


def _add_inspect(actions: Any) -> None:
    parser = manual(
        actions, "inspect", "Draw a frame store's frames, labels and statistics.", INSPECT, INSPECT_EXAMPLES
    )
    parser.add_argument("stores", metavar="STORE", type=Path, nargs="+", help="frame stores")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder of the page and its pictures")
    parser.add_argument(
        "--count", metavar="N", type=int, default=20, help="frames of each dataset that are drawn (default: 20)"
    )
    parser.set_defaults(run=_inspect)


def _add_vsi_bench(actions: Any) -> None:
    parser = manual(actions, "vsi-bench", "Freeze VSI-Bench's questions into a suite.", VSI_BENCH, VSI_BENCH_EXAMPLES)
    parser.add_argument("source", metavar="FOLDER", type=Path, help="the published files, with the videos unpacked")
    parser.add_argument("--out", metavar="SUITE", type=Path, required=True, help="the suite's folder")
    parser.add_argument("--frames", metavar="N", type=int, default=16, help="frames of each video (default: 16)")
    parser.add_argument("--limit", metavar="N", type=int, help="take only the first N questions")
    parser.set_defaults(run=_vsi_bench)


def _curate(args: argparse.Namespace) -> int:
    kind = READERS.get(args.reader)
    named = {name: getattr(args, name) for name in ("image_root", "depth_is", "dataset", "split", "licence")}
    options = {name: value for name, value in named.items() if value is not None} | dict(args.set)
    known = {name: p.annotation for name, p in inspect.signature(kind).parameters.items() if name != "source"}
    for name, value in options.items():
        if name not in known:
            raise DepthLMError(f"option {name!r}", f"is none of reader {args.reader}", f"it has {', '.join(known)}")
        word, types = PLAIN_TYPES.get(str(known[name]), ("", object))
        if not isinstance(value, types) or (isinstance(value, bool) and types in (int, (int, float))):
            raise DepthLMError(f"option {name!r}", f"is {value!r}, not {word}", f"--set {name}=…")
    return _write_store(kind(args.source, **options), args)


def _synthetic(args: argparse.Namespace) -> int:
    from data_gen.readers.procedural import ProceduralReader

    width, height = args.size
    reader = ProceduralReader(
        args.scenes,
        views=args.views,
        width=width,
        height=height,
        seed=args.seed,
        mix=args.kinds,
        labels=args.labels,
        dense=args.dense,
        fov=args.fov,
        distortion=args.distortion,
        quality=args.quality,
    )
    return _write_store(reader, args)


def _write_store(reader: Any, args: argparse.Namespace) -> int:
    from data_gen.curate import curate

    report = curate(reader, args.out, args.workers, args.frames_per_shard, args.limit, args.engine)
    frames = json.loads((args.out / "report.json").read_bytes())["frames"]
    print(f"{args.out}: {frames} frames; {report}")
    return 0


def _freeze(args: argparse.Namespace) -> int:
    from data_gen.freeze import Asking, Part, freeze

    if args.count < 1:
        raise DepthLMError("--count", f"is {args.count}", "give 1 or more")
    names = ("seed", "profile", "also", "intrinsics", "pointing", "pair_overlap", "pair_motion_m", "dense")
    asking = Asking(**{name: getattr(args, name) for name in names if getattr(args, name) is not None})
    part = Part(args.stores, args.count, args.mix, per_image=args.per_image)
    _say_suite(args.out, *freeze([part], args.out, asking, args.name or args.out.name))
    return 0


def _say_suite(out: Path, suite: Any, report: Any) -> None:
    print(f"{out}: {len(suite.items)} questions, hash {suite.hash}; {report}")


def _suite(args: argparse.Namespace) -> int:
    from data_gen.suite_recipes import make_suite, read_recipe

    if args.count is not None and args.count < 1:
        raise DepthLMError("--count", f"is {args.count}", "give 1 or more")
    stores = dict(args.store)
    if len(stores) < len(args.store):
        raise DepthLMError("--store", "names a part twice", "give each part one store")
    names = ("form", "count", "profile", "partial", "dense", "workers")
    made = make_suite(read_recipe(args.recipe), args.out, stores, **{name: getattr(args, name) for name in names})
    _say_suite(args.out, *made)
    return 0


def _publish(args: argparse.Namespace) -> int:
    from data_gen.publish import publish, upload
    from depthlm.suite import read_suite

    print(publish(read_suite(args.suite), args.out))
    if args.repo:
        print(upload(args.out, args.repo, args.private))
    return 0


def _fetch(args: argparse.Namespace) -> int:
    from data_gen.publish import fetch

    suite = fetch(args.source, args.out)
    print(f"{args.out}: {len(suite.items)} questions, hash {suite.hash}")
    return 0


def _vsi_bench(args: argparse.Namespace) -> int:
    from data_gen.vsi_bench import make_suite

    suite, report = make_suite(args.source, args.out, args.frames, args.limit, args.out.name)
    print(f"{args.out}: {len(suite.items)} questions, hash {suite.hash}; {report}")
    return 0


def _inspect(args: argparse.Namespace) -> int:
    from data_gen.inspection import inspect_stores

    if args.count < 1:
        raise DepthLMError("--count", f"must be at least 1, got {args.count}")
    files, summary = inspect_stores(args.stores, args.out, args.count)
    print(summary)
    for file in files:
        print(f"wrote {file}")
    return 0


def _store_of(text: str) -> tuple[str, Path]:
    part, equals, folder = text.partition("=")
    if not (part and equals and folder):
        raise argparse.ArgumentTypeError(f"{text!r} is not PART=DIR")
    return part, Path(folder)


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if not match or not all(int(n) for n in match.groups()):
        raise argparse.ArgumentTypeError(f"{text!r} is no size, e.g. 320x240")
    return int(match[1]), int(match[2])


def _range(text: str) -> tuple[float, float]:
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no range, e.g. 40,110") from None
    if not 0 < low <= high < 180:
        raise argparse.ArgumentTypeError(f"{text!r} must be two rising angles between 0 and 180 degrees")
    return low, high


def _shares(text: str) -> tuple[float, float]:
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no range, e.g. 0.3,0.8") from None
    return low, high


def _weights(text: str) -> dict[str, float]:
    weights: dict[str, float] = {}
    for part in text.split(","):
        name, _, weight = part.strip().partition("=")
        try:
            weights[name] = float(weight or 1)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{weight!r} is no weight of {name}") from None
        if not name or not 0 < weights[name] < float("inf"):
            raise argparse.ArgumentTypeError(f"{text!r} is no list such as room=0.7,street=0.3")
    return weights


def _option(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    if not name or not value:
        raise argparse.ArgumentTypeError(f"{text!r} is not OPTION=VALUE")
    return name.replace("-", "_"), yaml.safe_load(value)
