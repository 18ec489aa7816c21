"""The engine that asks a server."""

from __future__ import annotations

from collections.abc import Sequence

from depthlm.serving.chat_request import ChatRequest
from depthlm.serving.endpoint import ChatEndpoint
from depthlm.suite import Item
from eval.engines import Reply


class EndpointEngine(ChatEndpoint):
    """Asks an OpenAI-compatible server a suite's questions."""

    async def ask(self, item: Item, packed: ChatRequest, before: Sequence[str]) -> Reply:
        """Ask the next question of a conversation.

        Raises:
            DepthLMError: the server refused, or every attempt failed; with the last reason.
        """
        count = self.settings.get("n") or 1
        found = await self.complete(packed.body(before), f"question {item.id}", count)
        return Reply(found.text, found.latency_s, found.spread, found.cut)
