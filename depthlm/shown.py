"""Questions and images as a model is shown them: what every engine, server and client sends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from depthlm.prompt import assistant_message, system_message, user_message


@dataclass(frozen=True, eq=False)
class Shown:
    """Questions of one conversation as a model is asked them.

    Args:
        images: (h, w, 3) uint8 RGB, marked.
        texts: the questions, asked one after the other.
        system: system prompt, empty for none.
        text_first: the first question comes before the images.
        points: of each question, see `depthlm.sample.Turn`, in the pixels of these images.
        stored: the images' files, where they are stored as they are shown; else empty.
        canonical: the images have the profile's focal length, and no processor may resize them.
    """

    images: list[NDArray[np.uint8]]
    texts: list[str]
    system: str = ""
    text_first: bool = False
    points: Sequence[Sequence[dict[str, Any]]] = ()
    stored: Sequence[bytes] = ()
    canonical: bool = False

    def messages(self, answers: Sequence[str] = ()) -> list[dict[str, Any]]:
        """Chat messages up to where the next answer begins, after ``answers`` to the questions before."""
        out = [system_message(self.system)] if self.system else []
        for i, text in enumerate(self.texts[: len(answers) + 1]):
            out.append(user_message(text, len(self.images) if i == 0 else 0, self.text_first))
            if i < len(answers):
                out.append(assistant_message(answers[i]))
        return out
