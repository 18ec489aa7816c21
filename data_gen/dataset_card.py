"""The card of a published suite: what the hub and its viewer need, and what a reader of its scores has to know."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import yaml

from depthlm.profiles import PROFILES
from depthlm.suite import Suite

# What stands for the repository's name until the folder is uploaded.
REPOSITORY = "OWNER/NAME"
# Licences that the hub knows by a key of its own, as far as data sets of depth use them.
HUB_LICENCES = {
    *("apache-2.0", "mit", "cc0-1.0", "odbl", "odc-by", "pddl", "cdla-permissive-2.0", "cc-by-2.0", "cc-by-3.0"),
    *("cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nd-4.0"),
    *("cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0"),
}
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
FORMS = {
    "corrected": "All truths are true. Where a published evaluation took other ones, its scores can't be compared.",
    "as-published": "Truths are the published evaluation's, also where they are known to be wrong (see below).",
}


def dataset_card(suite: Suite, licences: Mapping[str, int]) -> str:
    """The README.md of a published suite.

    Args:
        licences: the frames' licence notes, and of how many frames each.
    """
    stored = any(item.images for item in suite.items)
    header = yaml.safe_dump(_header(suite, licences, stored), sort_keys=False, allow_unicode=True, width=10**9)
    sections = [
        f"---\n{header}---",
        f"# {_line(suite.name)}",
        _about(suite),
        f"## Use\n\n{_use(stored)}",
        f"## Questions\n\n{_counts(suite)}",
        f"## How it was made\n\n{_made(suite)}",
        f"## Licence\n\n{_licence_notes(licences)}",
    ]
    return "\n\n".join(sections) + "\n"


def hub_licence(note: str) -> str:
    """The hub's key of a licence note."""
    key = "-".join(note.lower().split())
    return key if key in HUB_LICENCES else "other" if note else "unknown"


def _header(suite: Suite, licences: Mapping[str, int], stored: bool) -> dict[str, Any]:
    keys = sorted({hub_licence(note) for note in licences}) or ["unknown"]
    return {
        "pretty_name": " ".join(suite.name.split()),
        "license": keys[0] if len(keys) == 1 else keys,
        "language": ["en"],
        "task_categories": ["visual-question-answering"],
        "tags": ["depthlm", "metric-depth", "spatial-reasoning", "benchmark"],
        "size_categories": [next((size for most, size in SIZES if len(suite.items) < most), "n>1M")],
        "configs": [
            _config("questions", default=True),
            *([_config("frames")] if any(item.frame_hashes for item in suite.items) else []),
            *([_config("images")] if stored else []),
        ],
    }


def _config(name: str, **more: Any) -> dict[str, Any]:
    return {"config_name": name, **more, "data_files": [{"split": "test", "path": f"{name}/*.parquet"}]}


def _about(suite: Suite) -> str:
    settings = suite.settings
    words = [
        _line(settings.get("about") or "Questions about images that are answered with a number.").rstrip(".") + "."
    ]
    words.append(
        f"A frozen suite of the DepthLM toolkit: {len(suite.items)} questions about {_frames(suite)}, "
        f"content hash `{suite.hash}`."
    )
    if form := settings.get("form"):
        words.append(f"Form: **{_line(form)}**. {FORMS.get(str(form), '')}")
    notes = [f"- {_line(name)}: {_line(why)}" for name, why in _mapping(settings.get("footnotes")).items()]
    return "\n\n".join(words + ["\n".join(notes)] * bool(notes))


def _frames(suite: Suite) -> str:
    if any(item.images for item in suite.items):
        return f"{len({name for item in suite.items for name in item.images})} stored images"
    return f"{len({name for item in suite.items for name in item.frame_ids})} images"


def _use(stored: bool) -> str:
    images, key = ("images", "path") if stored else ("frames", "id")
    named = "images" if stored else "frame_ids"
    more = (
        "Images are shown as they are."
        if stored
        else "The images are the original ones, unmarked: `depthlm` brings them to a model's focal length and draws\n"
        "its markers when it asks. `points` has the marked pixels of a question's first image; integers are pixel\n"
        "centres."
    )
    return f"""\
```
depthlm data fetch {REPOSITORY} --out suite
depthlm eval run suite --model MODEL --out results
```

The first makes the suite's folder again and checks every frame against its content hash; the second asks a model its
questions and scores the answers. Without the toolkit:

```python
from datasets import load_dataset

questions = load_dataset("{REPOSITORY}", "questions", split="test")
{images} = load_dataset("{REPOSITORY}", "{images}", split="test")
rows = {{name: row for row, name in enumerate({images}["{key}"])}}
question = questions[0]
shown = [{images}[rows[name]]["image"] for name in question["{named}"]]
```

{more}"""


def _counts(suite: Suite) -> str:
    counts = Counter((item.dataset, item.kind) for item in suite.items)
    datasets, kinds = (sorted({key[i] for key in counts}) for i in range(2))
    rows = [["dataset", *kinds, "all"], ["---", *["---:"] * (len(kinds) + 1)]]
    for dataset in datasets:
        numbers = [counts[dataset, kind] for kind in kinds]
        rows.append([_line(dataset), *map(str, numbers), str(sum(numbers))])
    totals = [sum(counts[dataset, kind] for dataset in datasets) for kind in kinds]
    rows.append(["all", *map(str, totals), str(len(suite.items))])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _made(suite: Suite) -> str:
    settings = {name: value for name, value in suite.settings.items() if name not in ("about", "footnotes", "skipped")}
    listed = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True, default_flow_style=None, width=118)
    text = [f"```yaml\n{listed.replace('`', '')}```"]
    if skipped := _mapping(suite.settings.get("skipped")):
        counted = [f"{_mapping(found).get('count')} × {_line(kind)}" for kind, found in skipped.items()]
        text.append(f"Skipped while it was frozen: {', '.join(counted)}.")
    if (name := str(suite.settings.get("profile"))) in PROFILES.names():
        profile = PROFILES.get(name)
        text.append(
            f"Questions are written as profile `{name}` asks them: canonical images of {profile.focal:g} px focal\n"
            f"length, marker: {profile.marker.kind}. Other profiles ask the same in their own form."
        )
    return "\n\n".join(text)


def _licence_notes(licences: Mapping[str, int]) -> str:
    if not licences:
        return "The suite does not state its images' licence: that of the dataset that they come from applies."
    rows = [f"- {_line(note) or 'not stated'}: {count} frames" for note, count in sorted(licences.items())]
    return "What the frames state; where nothing is stated, the licence of their dataset applies.\n\n" + "\n".join(rows)


def _mapping(value: Any) -> dict[str, Any]:
    """What should be a mapping: settings of a suite from elsewhere may be anything."""
    return value if isinstance(value, dict) else {}


def _line(text: Any) -> str:
    """Text from data, as one line that ends no table, list or heading."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")
