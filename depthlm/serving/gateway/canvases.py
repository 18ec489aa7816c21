"""Photos kept in their model's form, so that many questions about one image decode and warp it once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from depthlm.asking import Canvas
from depthlm.photo import Lens
from depthlm.serving.spatial_model import SpatialModel

# The file itself: found by Python's hash, which is another in each process, and compared byte by byte.
Key = tuple[bytes, Lens]
DEFAULT_BYTES = 256 << 20
# Of a photo, and of its canonical image: some 0.3 ms to mark and encode, 1 ms where another window is drawn first.
QUICK_PIXELS = 640 * 480


@dataclass(eq=False)
class _Entry:
    lock: threading.Lock = field(default_factory=threading.Lock)
    canvas: Canvas | None = None
    size: int = 0


class CanvasCache:
    """The last used canvases, together no larger than ``limit`` bytes. Called from several threads."""

    def __init__(self, limit: int = DEFAULT_BYTES) -> None:
        self.limit, self.size = limit, 0
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Key, make: Callable[[], Canvas]) -> Canvas:
        """The canvas for ``key``; made once, while others who ask for the same wait. An error is not kept."""
        with self._lock:
            entry = self._entries.setdefault(key, _Entry())
            self._entries.move_to_end(key)
        with entry.lock:
            if entry.canvas is None:
                try:
                    entry.canvas = make()
                except BaseException:
                    self._drop(key, entry)
                    raise
                self._keep(key, entry, entry.canvas)
            return entry.canvas

    def kept(self, key: Key) -> Canvas | None:
        """The canvas for ``key``, where it is there already; it is the last that will go."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None:
                self._entries.move_to_end(key)
        return None if entry is None else entry.canvas

    def _keep(self, key: Key, entry: _Entry, canvas: Canvas) -> None:
        # the file, the photo, and the two windows of it that may be drawn
        entry.size = len(key[0]) + canvas.photo.pixels.nbytes + 2 * 3 * canvas.profile.max_pixels
        with self._lock:
            if self._entries.get(key) is entry:
                self.size += entry.size
            while self.size > self.limit and self._entries:
                self.size -= self._entries.popitem(last=False)[1].size

    def _drop(self, key: Key, entry: _Entry) -> None:
        with self._lock:
            if self._entries.get(key) is entry:
                del self._entries[key]

    def __len__(self) -> int:
        return len(self._entries)


@dataclass(frozen=True, eq=False)
class CachedModel(SpatialModel):
    """A `SpatialModel` that keeps its canvases."""

    canvases: CanvasCache = field(default_factory=CanvasCache)

    def is_quick(self, data: bytes, lens: Lens) -> bool:
        """Whether it takes less time to mark an image than to hand it to another thread: it is small, and is kept."""
        canvas = self.canvases.kept((data, lens))
        if canvas is None or canvas.photo.camera.distortion:  # of which another window takes long to draw
            return False
        return all(camera.width * camera.height <= QUICK_PIXELS for camera in (canvas.photo.camera, canvas.camera))

    def open(self, data: bytes, lens: Lens | None = None, where: str = "image") -> Canvas:
        return self.canvases.get((data, lens or Lens()), lambda: self.canvas(self.photo(data, lens, where)))
