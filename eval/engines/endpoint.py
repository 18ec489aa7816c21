"""The engine that asks a server."""

from __future__ import annotations

from collections.abc import Sequence

from depthlm.serving.chat_request import ChatRequest
from depthlm.serving.endpoint import ChatEndpoint
from depthlm.suite import Item
from eval.engines import Reply


class EndpointEngine(ChatEndpoint):
    """Asks an OpenAI-compatible server a suite's questions."""

    async def ask(self, items: Sequence[Item], packed: ChatRequest) -> list[Reply]:
        """Ask the questions of one conversation, each after the answer to the one before.

        Raises:
            DepthLMError: the server refused, or every attempt failed; with the last reason.
        """
        replies: list[Reply] = []
        count = self.settings.get("n") or 1
        for item in items:
            body = packed.body([reply.text for reply in replies])
            found = await self.complete(body, f"question {item.id}", count)
            replies.append(Reply(found.text, found.latency_s, found.spread, found.cut))
        return replies
