"""The web page: its parts, and what each of them calls."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any

import gradio as gr
from gradio.blocks import Block
from gradio_client.utils import is_http_url_like

from depthlm.questions import KINDS
from depthlm.serving.demo.actions import Actions
from depthlm.serving.demo.cloud import CloudFiles
from depthlm.serving.demo.picture import Form, Picture
from depthlm.serving.demo.text import (
    CAMERA_INFO,
    CAMERAS,
    CLOUD_INFO,
    EMPTY,
    FORMS,
    QUESTIONS,
    answer_text,
    note,
    points_text,
    problem_text,
    progress_text,
    side_by_side,
)

# Questions that are asked at the same time; the others wait, and past the longest queue they are turned away.
AT_ONCE, LONGEST_QUEUE = 4, 32
# From where a point cloud is seen at first, in diagonals of it.
NEAR = 0.65
# The parts of an answer, where there is none.
_NO_ANSWER = [EMPTY, None, "", ""]
# No entry in the list of the server's functions, and no veil over the parts while they wait for a quick one.
PRIVATE = {"api_visibility": "private"}
QUICK = PRIVATE | {"queue": False, "show_progress": "hidden"}


class Page:
    """The page's parts and their events, one set for all visitors; what a visitor does is kept in ``picture``.

    Args:
        actions: what the parts call.
        model: its name, for the reader.
    """

    def __init__(self, actions: Actions, model: str) -> None:
        self.actions, self.examples = actions, actions.examples()
        # Gradio would open the file on the way, whosever it is, and fail in its own words. It has to be the class's
        # method: when a part's settings change, Gradio makes it anew for the visitor.
        gr.Image.preprocess = _path  # type: ignore[method-assign,assignment]
        gr.components.Component.async_move_resource_to_block_cache = _local  # type: ignore[method-assign]
        head = f"<h1>DepthLM</h1><p>Metres from a photo, asked of <b>{escape(model)}</b></p>"
        with gr.Blocks(title="DepthLM", analytics_enabled=False, delete_cache=(600, 3600)) as self.blocks:
            gr.HTML(head, elem_id="head")
            self.picture = gr.State(None)
            with gr.Row(equal_height=False):
                with gr.Column(scale=6, min_width=320):
                    self._add_photo()
                with gr.Column(scale=5, min_width=320):
                    self._add_form()
            with gr.Tabs(elem_id="more"):
                with gr.Tab("What was asked"):
                    self._add_details()
                with gr.Tab("Point cloud"):
                    self._add_cloud()
            self._connect()
        self.blocks.queue(max_size=LONGEST_QUEUE, default_concurrency_limit=AT_ONCE, api_open=False)

    def _add_photo(self) -> None:
        self.photo = _photo("Photo", "photo", 420)
        with gr.Row(elem_id="pointing"):
            self.points = gr.HTML(points_text(None, "distance"), elem_id="points")
            self.clear = gr.Button("Clear points", size="md", elem_id="clear", scale=0, min_width=130)
        titles = [(str(each["file"]), str(each["title"])) for each in self.examples]
        more = {"columns": 4, "object_fit": "cover", "allow_preview": False, "buttons": []}
        self.gallery = gr.Gallery(titles, show_label=False, elem_id="examples", interactive=False, **more)

    def _add_form(self) -> None:
        choices = [(title, name) for name, title in QUESTIONS.items()]
        self.kind = gr.Radio(choices, value="distance", label="Question", elem_id="kind")
        self.given = gr.Number(2.0, label="Time, seconds", step=0.1, visible=False, elem_id="given")
        self.second = _photo("Second photo, from another place", "second", 200, visible=False)
        choices = [(title, name) for name, title in CAMERAS.items()]
        self.camera = gr.Radio(choices, value="photo", label="Camera", info=CAMERA_INFO, elem_id="camera")
        self.fov = gr.Number(70, label="Horizontal field of view, degrees", visible=False, elem_id="fov")
        label = "fx, fy, cx, cy in px of the photo, or the focal length alone"
        self.intrinsics = gr.Textbox("", label=label, max_length=200, visible=False, elem_id="intrinsics")
        self.form = [self.kind, self.given, self.camera, self.fov, self.intrinsics, self.second]
        self.ask = gr.Button("Ask", variant="primary", size="lg", elem_id="ask")
        self.answer = gr.HTML(EMPTY, elem_id="answer")

    def _add_details(self) -> None:
        with gr.Row(equal_height=False):
            more = {"interactive": False, "buttons": ["download", "fullscreen"], "format": "png", "height": 300}
            self.seen = gr.Image(label="As the model saw it", elem_id="seen", **more)
            with gr.Column(min_width=320):
                self.question = gr.Textbox(label="The question as it was asked", lines=2, elem_id="question")
                self.text = gr.Textbox(label="The model's words", lines=2, max_lines=10, elem_id="text")
        self.answers = [self.answer, self.seen, self.question, self.text]

    def _add_cloud(self) -> None:
        with gr.Row(elem_id="making"):
            self.columns = gr.Slider(4, 64, 16, step=2, label="Points in a row", elem_id="columns", buttons=[])
            self.make = gr.Button("Make the point cloud", variant="primary", elem_id="make", min_width=200)
            self.stop = gr.Button("Stop", elem_id="stop", scale=0, min_width=100)
        self.told, self.made = gr.HTML(CLOUD_INFO, elem_id="told"), gr.State(None)
        view = {"clear_color": (0.06, 0.07, 0.09, 1.0), "height": 420}
        self.space = gr.Model3D(label="Drag to turn, pinch to zoom", elem_id="space", interactive=False, **view)
        with gr.Row(elem_id="files"):
            self.files = [gr.DownloadButton(name, visible=False, min_width=140) for name in FORMS]

    def _connect(self) -> None:
        view = [self.picture, self.photo, self.points]
        camera = [self.camera, self.intrinsics, self.second]
        self.photo.upload(self.load, [self.photo, self.kind], [*view, *camera, *self.answers], **PRIVATE)
        self.photo.clear(lambda kind: (None, points_text(None, kind)), self.kind, [self.picture, self.points], **QUICK)
        self.photo.select(self.click, [self.picture, self.kind], view, **QUICK)
        self.clear.click(self.unclick, [self.picture, self.kind], view, **QUICK)
        self.gallery.select(self.take_example, [self.kind], [*view, *camera, *self.answers], **PRIVATE)
        self.kind.change(self.choose, [self.picture, self.kind], [*view, self.given, self.second], **QUICK)
        self.camera.change(
            lambda name: (gr.update(visible=name == "fov"), gr.update(visible=name == "intrinsics")),
            self.camera,
            [self.fov, self.intrinsics],
            **QUICK,
        )
        self.ask.click(
            self.answer_it, [self.picture, *self.form], self.answers, show_progress_on=self.answer, **PRIVATE
        )
        making = self.make.click(
            self.make_cloud,
            [self.picture, self.columns, *self.form],
            [self.told, self.made, *self.files],
            show_progress="hidden",
            **PRIVATE,
        )
        # by an event of its own: what comes in pieces is sent twice, and the second time stops the viewer's loading
        making.then(self.show_cloud, self.made, self.space, **QUICK)
        self.stop.click(lambda: CLOUD_INFO, None, self.told, cancels=[making], **QUICK)

    def load(self, path: str | None, kind: str) -> list[Any]:
        """A photo was dropped: its camera is its own again."""
        if path is None:
            return [None, None, points_text(None, kind), *[gr.skip()] * 3, *_NO_ANSWER]
        return self._take(path, kind, [gr.update(value="photo"), "", gr.skip()])

    def take_example(self, kind: str, chosen: gr.SelectData) -> list[Any]:
        """An example was chosen, whose camera is known."""
        found = self.examples[int(chosen.index)]
        numbers = ", ".join(f"{value:g}" for value in found["intrinsics"])
        second = found.get("second")
        return self._take(found["file"], kind, [gr.update(value="intrinsics"), numbers, second and str(second)])

    def _take(self, path: Any, kind: str, camera: list[Any]) -> list[Any]:
        try:
            picture = self.actions.load(path)
        except Exception as error:
            return [None, None, points_text(None, kind), *camera, problem_text(error), *_NO_ANSWER[1:]]
        return [*_view(picture, kind), *camera, *_NO_ANSWER]

    def click(self, picture: Picture | None, kind: str, at: gr.SelectData) -> list[Any]:
        """The photo was clicked."""
        most = KINDS.get(kind).points
        if picture is None or not most:
            return [gr.skip()] * 3
        return _view(picture.clicked(at.index[0], at.index[1], most), kind)

    def unclick(self, picture: Picture | None, kind: str) -> list[Any]:
        """The points are taken away."""
        return [gr.skip()] * 3 if picture is None else _view(picture.pointed(()), kind)

    def choose(self, picture: Picture | None, kind: str) -> list[Any]:
        """Another question was chosen: it keeps as many points as it asks about."""
        what = "Speed, metres per second" if kind == "travel_time" else "Time, seconds"
        given = gr.update(visible=bool(KINDS.get(kind).given), label=what)
        more = [given, gr.update(visible=KINDS.get(kind).images > 1)]
        if picture is None:
            return [gr.skip(), gr.skip(), points_text(None, kind), *more]
        return [*_view(picture.pointed(picture.points[: KINDS.get(kind).points]), kind), *more]

    def answer_it(self, picture: Picture | None, *form: Any) -> list[Any]:
        """Ask; what went wrong is said where the answer would stand."""
        try:
            measurement, shown = self.actions.ask(picture, Form(*form))
        except Exception as error:
            return [problem_text(error), *_NO_ANSWER[1:]]
        return [answer_text(measurement), side_by_side(shown), measurement.question, measurement.text]

    def show_cloud(self, made: CloudFiles | None) -> Any:
        """What was made, from a little above and beside where the camera stood."""
        if made is None:
            return gr.update(value=None)
        return gr.update(value=str(made.shown), camera_position=(80, 78, NEAR * made.extent))

    def make_cloud(self, picture: Picture | None, columns: float, *form: Any) -> Iterator[list[Any]]:
        """Ask for many points, and tell how far it is."""
        yield [note("Asking …"), None, *[gr.update(visible=False)] * len(FORMS)]
        try:
            for step in self.actions.cloud(picture, Form(*form), int(columns)):
                if isinstance(step, CloudFiles):
                    kept = [gr.update(value=str(path), visible=True) for path in step.files]
                    yield [note(*step.told), step, *kept]
                else:
                    yield [progress_text(*step), *[gr.skip()] * (1 + len(FORMS))]
        except Exception as error:
            yield [problem_text(error), None, *[gr.skip()] * len(FORMS)]


def _photo(label: str, name: str, height: int, visible: bool = True) -> gr.Image:
    """Where a photo is dropped. The file itself comes to the server, with its EXIF."""
    more = {"type": "filepath", "image_mode": None, "format": "jpeg", "sources": ["upload"], "buttons": []}
    return gr.Image(label=label, elem_id=name, height=height, visible=visible, interactive=True, **more)  # type: ignore[arg-type]


def _path(_: gr.Image, payload: Any) -> str | None:
    """Where a dropped photo lies, as the visitor's browser says: `Disk` checks it."""
    return None if payload is None else payload.path


async def _local(part: gr.components.Component, path: Any) -> str | None:
    """As Gradio does it, but for addresses, which it would fetch for any visitor who names one."""
    if is_http_url_like(str(path)):
        raise gr.Error("nothing is fetched", print_exception=False)
    return await Block.async_move_resource_to_block_cache(part, path)


def _view(picture: Picture, kind: str) -> list[Any]:
    return [picture, picture.marked(), points_text(picture, kind)]
