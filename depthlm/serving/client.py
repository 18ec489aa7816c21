"""Ask for measurements from Python: `Client`, and `AsyncClient` for programs with an event loop.

A gateway (`depthlm serve`) is sent the image as it is, and draws the markers itself. Any other OpenAI-compatible
server, vLLM's own or a vendor's, is sent what is drawn here; so is a model that is run here.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import os
import threading
import weakref
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from depthlm.errors import DepthLMError
from depthlm.measuring import Measurement
from depthlm.photo import Lens
from depthlm.questions import KINDS
from depthlm.serving.answerers import LocalAnswerer, ServerAnswerer
from depthlm.serving.endpoint import ChatEndpoint
from depthlm.serving.spatial_model import Question, SpatialModel, how_to_ask

T = TypeVar("T")
ImageLike = str | Path | bytes | Image.Image | NDArray[np.uint8]
URL_VARIABLE = "DEPTHLM_URL"
DEFAULT_URL = "http://127.0.0.1:8000"
# The longest that closing holds up whoever closes, or the exit.
CLOSE_S = 5.0


class AsyncClient:
    """Measures in photos, by a server or by a model in this process.

    Args:
        url: of a gateway, or of any OpenAI-compatible interface; by default the environment variable ``DEPTHLM_URL``,
            else ``http://127.0.0.1:8000``.
        model: name at the server, where it serves several.
        local: folder or name of a model (or adapter) that is run here by transformers; instead of ``url``.
        api_key: None: that of the environment variable ``DEPTHLM_API_KEY``, if it is set.
        profile: how the model wants to be asked, where the server is no gateway and the model's name doesn't tell.
        encoder: folder of a spatial encoder that tells unknown cameras; of no effect with a gateway, which has its own.
        timeout_s, attempts: of a request, see `depthlm.serving.endpoint.ChatEndpoint`.

    Use it as an ``async with`` block, or call `close`.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        model: str | None = None,
        local: str | Path | None = None,
        api_key: str | None = None,
        profile: str | None = None,
        encoder: str | None = None,
        timeout_s: float = 120.0,
        attempts: int = 3,
    ) -> None:
        if local is not None and (url is not None or model is not None):
            raise DepthLMError("client", "a local model and a server are both named", "give one of them")
        self._local, self._profile, self._encoder = local, profile, encoder
        self._endpoint: ChatEndpoint | None = None
        if local is None:
            address = url or os.environ.get(URL_VARIABLE) or DEFAULT_URL
            patience = {"timeout_s": timeout_s, "attempts": attempts, "patience_s": 5.0}
            self._endpoint = ChatEndpoint(address, model, api_key=api_key, **patience)  # type: ignore[arg-type]
        self._spatial: SpatialModel | None = None
        self._gateway = False
        self._starting = asyncio.Lock()
        self._started = False

    async def start(self) -> None:
        """Connect, or load the model; the first question does it else.

        Raises:
            DepthLMError: nothing answers, the key is refused, or the model can't be loaded.
        """
        async with self._starting:
            if not self._started:
                await (self._start_local() if self._endpoint is None else self._start_remote(self._endpoint))
                self._started = True

    async def _start_local(self) -> None:
        from depthlm.models.loading import adapter_base, is_adapter, resolve

        source, adapter = str(self._local), None
        if is_adapter(source):
            source, adapter = adapter_base(source), source
        answerer = LocalAnswerer(source, adapter)
        names = [name for name in (adapter, resolve(source)) if name]
        asked_as, notes = how_to_ask(names, self._profile)
        await answerer.start()
        self._spatial = SpatialModel(answerer, asked_as, self._encoder, notes=notes)

    async def _start_remote(self, endpoint: ChatEndpoint) -> None:
        await endpoint.start()
        found = await endpoint.get_json("/spatial")
        self._gateway = found is not None and found.get("object") == "spatial"
        if self._gateway:
            if self._profile is not None:
                raise DepthLMError("profile", "is the gateway's own to choose", "leave it out")
            return
        asked_as, notes = how_to_ask([endpoint.served_name or ""], self._profile)
        self._spatial = SpatialModel(ServerAnswerer(endpoint), asked_as, self._encoder, notes=notes)

    async def measure(
        self,
        image: ImageLike,
        points: Sequence[Sequence[float]] = (),
        *,
        kind: str | None = None,
        second_image: ImageLike | None = None,
        names: Sequence[str] = (),
        fov: float | None = None,
        intrinsics: Sequence[float] = (),
        distortion: Sequence[float] = (),
        time: float | None = None,
        speed: float | None = None,
        samples: int = 1,
    ) -> Measurement:
        """Measure something in a photo.

        Args:
            image: a file, its bytes, a PIL image, or (H, W, 3) uint8 RGB.
            points: (x, y) px of the upright image, integer coordinates at pixel centres.
            kind: distance, axis_distance, speed, travel_time, two_point or camera_motion; by default what the rest
                says: two points, a second image, a time, a speed, or else distance.
            second_image: for camera_motion; of the same camera.
            names: of the points, for whom reads the answer; "" is none.
            fov: horizontal field of view, degrees.
            intrinsics: f; or fx, fy; or fx, fy, cx, cy: px.
            distortion: OpenCV coefficients.
            time: seconds, of speed; ``speed``: m/s, of travel_time.
            samples: draw so many answers: the value is their median, the interval holds 90% of them.

        Raises:
            DepthLMError: a question that can't be asked, or that the server has no answer to.
        """
        images = [image_bytes(each) for each in (image, second_image) if each is not None]
        question = Question(
            KINDS.get(kind or _kind(len(images), len(points), time, speed)).name,
            images,
            [Lens(tuple(map(float, intrinsics)), fov, tuple(map(float, distortion)))] * len(images),
            [_pair(point) for point in points],
            names,
            _given(time, speed),
            samples,
        )
        await self.start()
        if not self._gateway:
            assert self._spatial is not None
            return await self._spatial.measure(question)
        assert self._endpoint is not None
        return Measurement.from_dict(await self._endpoint.post_json("/spatial/measure", to_json(question), "question"))

    async def close(self) -> None:
        """Close the connections, or let go of the model; the next question opens them again."""
        self._started = False
        if self._endpoint is not None:
            await self._endpoint.close()
        elif self._spatial is not None:
            await self._spatial.answerer.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class Client:
    """`AsyncClient` without ``await``, also inside a notebook: its event loop runs in a thread of its own.

    Arguments and methods are the same::

        with depthlm.Client("http://127.0.0.1:8000") as client:
            print(client.measure("photo.jpg", [(320, 240)], fov=70))
    """

    def __init__(self, url: str | None = None, **options: Any) -> None:
        self._client = AsyncClient(url, **options)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end: Callable[[], object] = lambda: None

    def measure(self, image: ImageLike, points: Sequence[Sequence[float]] = (), **options: Any) -> Measurement:
        """See `AsyncClient.measure`."""

        return self._run(self._client.measure(image, points, **options))

    def start(self) -> None:
        """See `AsyncClient.start`."""
        self._run(self._client.start())

    def _run(self, asked: Coroutine[Any, Any, T]) -> T:
        """Await it in the event loop's thread; that is a daemon, so that a client nobody closes holds up no exit."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=self._loop.run_forever, name="depthlm client", daemon=True).start()
            self._end = weakref.finalize(self, _end, self._client, self._loop)  # also at exit
        running = asyncio.run_coroutine_threadsafe(asked, self._loop)
        try:
            return running.result()
        except BaseException:  # also Ctrl-C: nothing goes on behind
            running.cancel()
            raise

    def close(self) -> None:
        """See `AsyncClient.close`. May be called twice."""
        self._end()
        self._loop = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _end(client: AsyncClient, loop: asyncio.AbstractEventLoop) -> None:
    """Close a client whose event loop runs in another thread, and end that."""
    closing = asyncio.run_coroutine_threadsafe(client.close(), loop)
    with contextlib.suppress(TimeoutError):
        closing.result(CLOSE_S)
    loop.call_soon_threadsafe(loop.stop)


def image_bytes(image: ImageLike) -> bytes:
    """An image as the bytes of a file; pixels are encoded losslessly.

    Raises:
        DepthLMError: a file that can't be read, or an array of another form.
    """
    if isinstance(image, bytes):
        return image
    if isinstance(image, (str, Path)):
        try:
            return Path(image).expanduser().read_bytes()
        except OSError as error:
            raise DepthLMError(image, f"can't be read: {error.strerror}", "give an image's file") from error
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            reason = f"array of {image.dtype} with shape {image.shape}"
            raise DepthLMError("image", reason, "give (H, W, 3) uint8 RGB", "unreadable image")
        image = Image.fromarray(image)
    buffer = io.BytesIO()
    exif = image.getexif()
    (image if image.mode in ("RGB", "L", "I;16") else image.convert("RGB")).save(
        buffer, "PNG", compress_level=1, exif=exif
    )
    return buffer.getvalue()


def to_json(question: Question) -> dict[str, Any]:
    """A question as the body of ``POST /v1/spatial/measure``."""
    images = []
    for data, lens in zip(question.images, question.lenses, strict=True):
        url = "data:application/octet-stream;base64," + base64.b64encode(data).decode()
        known = {"fov": lens.fov_deg, "intrinsics": list(lens.intrinsics), "distortion": list(lens.distortion)}
        images.append({"url": url} | {name: value for name, value in known.items() if value not in (None, [])})
    points = [
        {"x": x, "y": y} | ({"name": question.names[i]} if i < len(question.names) and question.names[i] else {})
        for i, (x, y) in enumerate(question.points)
    ]
    out: dict[str, Any] = {"kind": question.kind, "images": images, "points": points, "samples": question.samples}
    if question.given is not None:
        out["speed" if question.kind == "travel_time" else "time"] = question.given
    return out


def _kind(images: int, points: int, time: float | None, speed: float | None) -> str:
    """The kind of question that its parts are of."""
    if images > 1:
        return "camera_motion"
    if points > 1:
        return "two_point"
    if time is not None:
        return "speed"
    return "travel_time" if speed is not None else "distance"


def _given(time: float | None, speed: float | None) -> float | None:
    if time is not None and speed is not None:
        raise DepthLMError("question", "states a time and a speed", "give one of them", "bad question")
    return time if time is not None else speed


def _pair(point: Sequence[float]) -> tuple[float, float]:
    if len(point) != 2:
        raise DepthLMError("point", f"{tuple(point)} is no pixel", "give x and y", "bad point")
    return float(point[0]), float(point[1])
