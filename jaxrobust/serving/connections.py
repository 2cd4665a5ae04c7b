"""Connections: closed where a head does not come in time, and bounded by the address that they come from."""

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

# From the connection, or the first byte of a further request, to the end of the head.
_HEAD_SECONDS = 10.0
# Of the connections that a server takes; behind a proxy all come from one address.
_SHARE_OF_AN_ADDRESS = 0.5


class Connection(H11Protocol):
    """uvicorn's, for clients that say nothing: they would hold the connections that others wait for."""

    _head: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        most = (self.limit_concurrency or 0) * _SHARE_OF_AN_ADDRESS
        here = [
            one for one in self.connections if isinstance(one, Connection) and one.address == self.address
        ]
        if most and len(here) > most:
            transport.abort()
            return
        self._watch()

    @property
    def address(self) -> str | None:
        """Where it comes from, without the port."""
        return self.client[0] if self.client else None

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        super().connection_lost(exc)

    def _watch(self) -> None:
        """Counts from where a head is waited for; more of it does not begin anew."""
        if self.conn.their_state is not h11.IDLE:
            self._forget()
        elif self._head is None:
            self._head = self.loop.call_later(_HEAD_SECONDS, self._late)

    def _forget(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _late(self) -> None:
        self._head = None
        self.transport.abort()
