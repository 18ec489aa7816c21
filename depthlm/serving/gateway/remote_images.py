"""Images from public addresses, where the operator allows them, and from nowhere else.

A name is looked up once, every address that it has is checked, and the connection goes to a checked one: a name that
changes its mind in between (DNS rebinding) changes nothing. What a socket is made for is checked once more, for
whatever way an address may come by. Redirects are not followed.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from depthlm.serving.gateway.faults import BadRequest, GatewayError
from depthlm.serving.gateway.limits import BODY

TIMEOUT_S = 15.0
LONGEST_ADDRESS = 4096
# IPv6 ranges inside which an IPv4 address is written: those lead to wherever that one leads.
NAT64, SIX_TO_FOUR, TEREDO = (ipaddress.IPv6Network(net) for net in ("64:ff9b::/96", "2002::/16", "2001::/32"))

# Protocol assignments, old 6to4 relays, documentation, and the address at which a cloud's machines find its services:
# not all of these are known to every Python's ipaddress.
NOT_PUBLIC = [ipaddress.ip_network(net) for net in ("192.0.0.0/24", "192.88.99.0/24", "3fff::/20", "168.63.129.16/32")]
PORTS = (80, 443)

LookUp = Callable[[str, int], Awaitable[list[str]]]


class _Refused(OSError):
    """An address that isn't public."""


@dataclass
class _Left:
    """What the files of a request may still hold."""

    bytes: int


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the public internet: not private, loopback, link-local, multicast, reserved."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return is_public(str(ip.ipv4_mapped))
        if any(ip in net for net in (NAT64, SIX_TO_FOUR, TEREDO)):
            return False
        if ip.is_site_local:
            return False
    if any(ip.version == net.version and ip in net for net in NOT_PUBLIC):
        return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified or ip.is_private)


async def look_up(host: str, port: int) -> list[str]:
    """All addresses of a name."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class CheckedResolver(AbstractResolver):
    """Names to addresses, all of which have passed ``permitted``."""

    def __init__(self, look_up: LookUp, permitted: Callable[[str], bool]) -> None:
        self._look_up, self._permitted = look_up, permitted

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        addresses = await self._look_up(host, port)
        if not addresses or not all(map(self._permitted, addresses)):
            raise _Refused("not a public address")
        return [self._result(host, port, address) for address in addresses]

    @staticmethod
    def _result(host: str, port: int, address: str) -> ResolveResult:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        return ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=flags)

    async def close(self) -> None:
        pass


class RemoteImages:
    """Fetches images over http(s).

    Args:
        max_bytes: of one request's files together; more is refused while they are read.
        timeout_s: for all files of one request, which are fetched side by side.
        look_up: addresses of a name.
        permitted: whether an address may be connected to; ``ports`` which of its ports.
    """

    def __init__(
        self,
        max_bytes: int,
        timeout_s: float = TIMEOUT_S,
        look_up: LookUp = look_up,
        permitted: Callable[[str], bool] = is_public,
        ports: Collection[int] = PORTS,
    ) -> None:
        self.max_bytes, self.timeout_s = max_bytes, timeout_s
        self._permitted, self._ports = permitted, ports
        self._resolver = CheckedResolver(look_up, permitted)
        self._session: aiohttp.ClientSession | None = None

    async def fetch_all(self, wanted: Mapping[str, str]) -> dict[str, bytes]:
        """The files at the addresses of one request, each with the field's name that holds it.

        Raises:
            GatewayError: an address that isn't allowed, doesn't answer in time, or with too much or nothing.
        """
        addresses = [(self._checked(url, param), param) for url, param in wanted.items()]
        left = _Left(self.max_bytes)
        fetching = [asyncio.ensure_future(self._fetch(*address, left)) for address in addresses]
        try:
            return dict(zip(wanted, await asyncio.gather(*fetching), strict=True))
        finally:
            for task in fetching:
                task.cancel()
            await asyncio.gather(*fetching, return_exceptions=True)

    async def _fetch(self, address: URL, param: str, left: _Left) -> bytes:
        try:
            async with asyncio.timeout(self.timeout_s):
                return await self._get(address, param, left)
        except TimeoutError as error:
            raise _unfetched(param, f"gave nothing within {self.timeout_s:g} s") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # not what exactly: that would map the network behind this server
            raise _unfetched(param, "can't be fetched from a public address") from error

    def _checked(self, url: str, param: str) -> URL:
        try:
            address = URL(url) if len(url) <= LONGEST_ADDRESS else URL()
            host = address.raw_host
        except ValueError:
            host = None
        if not host or address.scheme not in ("http", "https") or address.user or address.password:
            raise BadRequest("is no http(s) address of an image", param=param, code="remote_images_refused")
        if address.port not in self._ports:
            raise BadRequest("is at another port than a web server's", param=param, code="remote_images_refused")
        # aiohttp asks no resolver about these, and the system takes 2130706433 and 127.1 for 127.0.0.1
        if (":" in host or host.replace(".", "").isdigit()) and not self._permitted(host):
            raise _unfetched(param, "can't be fetched from a public address")
        return address

    async def _get(self, address: URL, param: str, left: _Left) -> bytes:
        headers = {"Accept": "image/*", "Accept-Encoding": "identity"}
        async with self._open().get(address, allow_redirects=False, headers=headers) as response:
            if response.status != 200:
                raise _unfetched(param, f"answered with status {response.status}; redirects are not followed")
            if response.headers.get("Content-Encoding", "identity") != "identity":
                raise _unfetched(param, "answered with a compressed file")
            return await self._read(response, param, left)

    async def _read(self, response: aiohttp.ClientResponse, param: str, left: _Left) -> bytes:
        out = bytearray()
        async for chunk in response.content.iter_any():
            out += chunk
            left.bytes -= len(chunk)
            if (body := BODY.get(None)) is not None:
                body.hold_more(len(chunk))
            if left.bytes < 0:
                message = f"the request's images are over the limit of {self.max_bytes} bytes"
                raise GatewayError(413, message, param=param, code="image_too_large")
        return bytes(out)

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            options: dict[str, Any] = {"use_dns_cache": False, "force_close": True, "limit": 32}
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(resolver=self._resolver, socket_factory=self._socket, **options),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
            )
        return self._session

    def _socket(self, info: aiohttp.AddrInfoType) -> socket.socket:
        """A socket for an address that is about to be connected to."""
        family, kind, proto, _, at = info
        if not self._permitted(str(at[0])):
            raise _Refused("not a public address")
        return socket.socket(family, kind, proto)

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None


def _unfetched(param: str, reason: str) -> BadRequest:
    return BadRequest(f"the image's address {reason}", param=param, code="remote_image_failed")
