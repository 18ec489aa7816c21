"""Which frame lies where in a store: ids, scenes and row groups, in one memory-mapped file beside the shards.

``index.arrow`` has one row per frame (id, scene); its metadata lists the shards with their sizes and row groups. It
only saves time: a store without it, or with one that does not fit its shards, is indexed by reading every shard.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from depthlm.errors import DepthLMError

INDEX_FILE = "index.arrow"


@dataclass(frozen=True)
class Shard:
    """One Parquet file: its name, size in bytes, and the rows of each of its row groups."""

    name: str
    size: int
    rows: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class StoreIndex:
    """Frames in the order of their shards; ``scene`` is dictionary-encoded."""

    shards: tuple[Shard, ...]
    id: pa.Array
    scene: pa.DictionaryArray

    @cached_property
    def groups(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Per row group of the whole store: its shard, its number within it, and its first row."""
        counts = [len(shard.rows) for shard in self.shards]
        shard = np.repeat(np.arange(len(counts)), counts)
        within = np.concatenate([np.arange(n) for n in counts]) if counts else np.zeros(0, np.int64)
        rows = np.array([n for shard in self.shards for n in shard.rows], np.int64)
        return shard, within, np.cumsum(rows) - rows

    @cached_property
    def scenes(self) -> dict[str, NDArray[np.int64]]:
        """Scene -> the rows of its frames, in order."""
        codes = self.scene.indices.to_numpy()
        order = np.argsort(codes, kind="stable")
        starts = np.flatnonzero(np.diff(codes[order], prepend=-1))
        names = self.scene.dictionary.to_pylist()
        return {
            names[codes[order[start]]]: part for start, part in zip(starts, np.split(order, starts[1:]), strict=True)
        }


def open_index(folder: Path, columns: Sequence[str]) -> StoreIndex:
    """The index of a store folder, from its file where that fits the shards, else from the shards.

    Args:
        columns: what every shard has to have; checked when the shards are read.

    Raises:
        DepthLMError: a shard is damaged or of another layout, or an id occurs twice.
    """
    present = sorted(
        (entry.name, entry.stat().st_size) for entry in os.scandir(folder) if entry.name.endswith(".parquet")
    )
    index = _read(folder / INDEX_FILE)
    if index is not None and [(shard.name, shard.size) for shard in index.shards] == present:
        return index
    return _scan(folder, present, columns)


def index_bytes(folder: Path, columns: Sequence[str]) -> bytes:
    """The content of the index file for the shards that are in a folder; the same shards give the same bytes.

    Raises:
        DepthLMError: as `open_index`.
    """
    index = open_index(folder, columns)
    shards = [[shard.name, shard.size, list(shard.rows)] for shard in index.shards]
    table = pa.table({"id": index.id, "scene": index.scene}).replace_schema_metadata({"shards": json.dumps(shards)})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return sink.getvalue().to_pybytes()


def _read(path: Path) -> StoreIndex | None:
    """The index file, memory-mapped; None when there is none or it is no whole one."""
    if not path.is_file():
        return None
    try:
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        shards = tuple(
            Shard(name, size, tuple(rows)) for name, size, rows in json.loads(table.schema.metadata[b"shards"])
        )
        id_, scene = (_one_chunk(table[name]) for name in ("id", "scene"))
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
        return None  # it is only a cache: the shards are read instead
    return StoreIndex(shards, id_, scene)


def _scan(folder: Path, present: Sequence[tuple[str, int]], columns: Sequence[str]) -> StoreIndex:
    shards, tables = [], []
    for name, size in present:
        path = folder / name
        try:
            with pq.ParquetFile(path) as file:
                missing = set(columns) - set(file.schema_arrow.names)
                if missing:
                    raise DepthLMError(path, f"is no shard of frames: it lacks {', '.join(sorted(missing))}")
                meta = file.metadata
                shards.append(Shard(name, size, tuple(meta.row_group(g).num_rows for g in range(meta.num_row_groups))))
                tables.append(file.read(columns=["id", "scene"], use_threads=False).cast(_PLAIN))
        except (OSError, pa.ArrowException) as error:
            raise DepthLMError(path, f"shard can't be read: {error}", "curate again", "damaged shard") from error
    table = pa.concat_tables(tables) if tables else _PLAIN.empty_table()
    check_unique(table["id"], folder)
    return StoreIndex(tuple(shards), _one_chunk(table["id"]), _one_chunk(table["scene"].dictionary_encode()))


_PLAIN = pa.schema([("id", pa.string()), ("scene", pa.string())])


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    whole = column.combine_chunks()
    return whole.chunk(0) if isinstance(whole, pa.ChunkedArray) else whole


def check_unique(ids: pa.ChunkedArray | Sequence[str], where: Path) -> None:
    """Refuse ids that occur twice.

    Raises:
        DepthLMError: naming one of them.
    """
    column = ids if isinstance(ids, pa.ChunkedArray) else pa.chunked_array([pa.array(ids, pa.string())])
    if pc.count_distinct(column).as_py() < len(column):
        twice, n = Counter(column.to_pylist()).most_common(1)[0]
        raise DepthLMError(where, f"frame id {twice!r} occurs {n} times", "give each frame its own id", "double id")
