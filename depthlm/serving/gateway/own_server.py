"""A vLLM behind a gateway that is started, watched, and started again when it dies."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable

import aiohttp

from depthlm.errors import DepthLMError
from depthlm.serving.gateway.upstream import HEALTH_S, LOOK_S, Upstream
from depthlm.serving.vllm_process import VLLMServer

logger = logging.getLogger(__name__)

# A server that answers no question about its health for so long hangs.
HUNG_S = 60.0
LOOK_TIMEOUT_S = 10.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
# One that ran so long had started well: the next pause is the first again.
STEADY_S = 300.0
STOP_GRACE_S = 5.0


class OwnServer(Upstream):
    """A vLLM that is started here, watched, and started again when it dies.

    Args:
        make: a new server, not started; its port may be another each time.
    """

    retry_after = 10

    def __init__(self, make: Callable[[], VLLMServer]) -> None:
        first = make()
        super().__init__(model=first.model_name)
        self.on_cpu = first.on_cpu
        self._make = make

    async def run(self) -> None:
        pause = FIRST_PAUSE_S
        served = False
        while True:
            server, began = self._make(), time.monotonic()
            try:
                if await self._start(server, served):
                    served, began = True, time.monotonic()
                    await self._watch(server)
                    self.on_lost()
                    logger.warning("vLLM was lost; it is started again")
            finally:
                await self._disconnect()
                await asyncio.shield(asyncio.to_thread(server.stop, STOP_GRACE_S))
            pause = FIRST_PAUSE_S if time.monotonic() - began > STEADY_S else pause
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)

    async def _start(self, server: VLLMServer, again: bool) -> bool:
        """Start it; a failure of the very first start is the operator's to mend, later ones are tried again."""
        starting = asyncio.ensure_future(asyncio.to_thread(server.start))
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:
            while not starting.done():  # it may not even have a process yet
                await asyncio.to_thread(server.stop, STOP_GRACE_S)
                await asyncio.wait({starting}, timeout=LOOK_S)
            starting.exception()
            raise
        except DepthLMError as error:
            if not again:
                raise
            logger.error("vLLM did not start again: %s", error)
            return False
        self.url = server.base_url
        self._connect()
        self.ready = True
        return True

    async def _watch(self, server: VLLMServer) -> None:
        """Return when the server has died or hangs."""
        health = asyncio.ensure_future(self._until_sick(server.base_url.removesuffix("/v1") + "/health"))
        try:
            while server.running and not health.done():
                await asyncio.sleep(LOOK_S)
        finally:
            health.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await health

    async def _until_sick(self, address: str) -> None:
        well = time.monotonic()
        while time.monotonic() - well < HUNG_S:
            await asyncio.sleep(HEALTH_S)
            assert self._session is not None
            with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
                async with asyncio.timeout(LOOK_TIMEOUT_S), self._session.get(address) as response:
                    if response.status >= 500:  # its engine is dead
                        return
                    well = time.monotonic()

    async def _survives(self) -> bool:
        """vLLM answers with 500 while its engine dies, and ends a moment later."""
        assert self._session is not None or not self.ready
        if self._session is None:
            return False
        try:
            address = self.url.removesuffix("/v1") + "/health"
            async with asyncio.timeout(1), self._session.get(address) as response:
                return response.status < 500
        except (aiohttp.ClientError, OSError, TimeoutError):
            return False
