"""Where clients come in: the listeners that the settings ask for, opened, reloaded and closed as one."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Mapping
from pathlib import Path

from proxy.authority import Authority, server_context
from proxy.domain import Origin
from proxy.errors import SetupError
from proxy.forwarded import TrustedNetworks
from proxy.listeners.connect import ForwardProxy, OtherHosts
from proxy.listeners.door import Door, Visitor
from proxy.listeners.reverse import Listener
from proxy.listeners.tls import ClientTrust, ServerNames, ServerTls, welcome_with_tls
from proxy.listeners.tunnel import Tunnels
from proxy.settings import Settings, host_and_port

_BACKLOG = 1_024


def own_addresses(settings: Settings, ports: Mapping[str, int]) -> frozenset[tuple[str, int]]:
    """(address, port) of every listener; `ports` are the real ones, by setting. The admin listener's is as it is set."""
    own = {(_address(getattr(settings, name)), port) for name, port in ports.items()}
    return frozenset(own | {(_address(settings.admin_listen), host_and_port(settings.admin_listen)[1])})


class Entrances:
    """The open listeners of one worker, which give what they get to `listener`. Made inside a running event loop."""

    def __init__(self, settings: Settings, ports: Mapping[str, int], listener: Listener) -> None:
        self._settings = settings
        self._ports = ports
        self._listener = listener
        self._server: asyncio.Server | None = None
        self._doors: list[Door] = []
        self._tls: ServerTls | None = None
        self._forward: ForwardProxy | None = None
        self._names = ServerNames()
        self._tunnels = Tunnels(
            own_addresses(settings, ports), connect_s=settings.aws_connect_timeout_s, idle_s=settings.idle_timeout_s
        )

    async def open(self) -> None:
        """Listen. Raises SetupError, OSError."""
        settings, handshake_s = self._settings, self._settings.request_timeout_s
        proxied = TrustedNetworks(settings.trusted_networks) if settings.proxy_protocol else None
        if settings.tls_listen:
            self._tls = ServerTls(*_certificate(settings))
            welcome = welcome_with_tls(self._listener, self._tls, handshake_s)
            self._doors.append(Door(self._bind("tls_listen"), welcome, greeting_s=handshake_s, proxied=proxied))
        if settings.forward_listen:
            self._forward = ForwardProxy(
                self._listener,
                _authority(settings, self._names),
                self._names,
                _others(settings),
                self._tunnels,
                handshake_s=handshake_s,
                answers_sts=settings.backend == "local",
            )
            welcome = self._forward.welcome
            self._doors.append(Door(self._bind("forward_listen"), welcome, greeting_s=handshake_s, proxied=proxied))
        if proxied is not None:
            self._doors.append(Door(self._bind("listen"), self._welcome_plain, greeting_s=handshake_s, proxied=proxied))
        else:
            self._server = await asyncio.get_running_loop().create_server(self._listener, sock=self._bind("listen"))

    def reload(self, settings: Settings) -> None:
        """Take certificates, CA, lists, networks and limits anew, for the connections to come. Raises SetupError, and nothing is
        changed. Whether there is a PROXY protocol, and where to listen, stays as it was at the start."""
        tls = _certificate(settings) if self._tls is not None else None
        leaves = _authority(settings, self._names) if self._forward is not None else None
        others = _others(settings)
        if self._tls is not None and tls is not None:
            self._tls.reload(*tls)
        if self._forward is not None and leaves is not None:
            self._forward.leaves, self._forward.others = leaves, others
            self._forward.answers_sts = settings.backend == "local"
        self._tunnels.limit(connect_s=settings.aws_connect_timeout_s, idle_s=settings.idle_timeout_s)
        for door in self._doors:
            door.greeting_s = settings.request_timeout_s
            if door.proxied is not None:
                door.proxied = TrustedNetworks(settings.trusted_networks)

    async def close(self, limit_s: float) -> None:
        """Accept nobody any more; tunnels may finish, for `limit_s` at most."""
        if self._server is not None:
            self._server.close()
        for door in self._doors:
            await door.close()
        await self._tunnels.close(limit_s)

    def counts(self) -> Mapping[str, int]:
        """By the names of `proxy.metrics`."""
        forward = self._forward
        return {
            **self._tunnels.counts(),
            "connect_refused": forward.refused if forward else 0,
            "connect_intercepted": forward.intercepted if forward else 0,
            "handshakes_failed": sum(door.unwelcome for door in self._doors),
        }

    async def _welcome_plain(self, visitor: Visitor) -> None:
        origin = Origin(visitor.peer, claimed_peer=visitor.claimed_peer)
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(lambda: self._listener.connection(lambda _: origin), visitor.sock)

    def _bind(self, name: str) -> socket.socket:
        """A listening socket on an address that the other workers share."""
        host = _address(getattr(self._settings, name))
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((host, self._ports[name]))
        sock.listen(_BACKLOG)
        return sock


def _certificate(settings: Settings) -> tuple[Path, Path, ClientTrust]:
    if settings.tls_certificate is None or settings.tls_key is None:
        raise SetupError("`tls_listen` needs tls_certificate and tls_key")
    return settings.tls_certificate, settings.tls_key, _client_trust(settings)


def _client_trust(settings: Settings) -> ClientTrust:
    """What every TLS session asks of its client, that within an intercepted CONNECT too."""
    trust = ClientTrust(settings.tls_client_certificates, settings.tls_client_ca)
    trust.apply(server_context())  # now, rather than at the first client
    return trust


def _authority(settings: Settings, names: ServerNames) -> Authority:
    trust = _client_trust(settings)

    def prepare(context: ssl.SSLContext) -> None:
        trust.apply(context)
        names.watch(context)

    return Authority(*settings.ca_files, prepare=prepare)


def _others(settings: Settings) -> OtherHosts:
    return OtherHosts(settings.forward_others, settings.forward_listed)


def _address(setting: str) -> str:
    host, _ = host_and_port(setting)
    return "127.0.0.1" if host == "localhost" else host
