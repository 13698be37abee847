"""Squid, the proxy that a company mandates: in front of keytrail, or behind it on the way out."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.integration.components import require_program
from tests.integration.components.certificates import Certificate
from tests.integration.components.ports import free_ports
from tests.integration.components.process import NotStarted, ServerProcess

_ATTEMPTS = 5
_USER = "proxy"  # of Debian's package: Squid refuses to work as root
_HELPER = "/usr/lib/squid/basic_ncsa_auth"


@dataclass(frozen=True, slots=True)
class SquidOptions:
    """What a Squid is like. `users` are names and passwords: with any, it asks for basic authentication (407)."""

    users: Mapping[str, str] = field(default_factory=dict, repr=False)
    certificate: Certificate | None = None  # with one, clients speak TLS to it: an HTTPS proxy
    parent_port: int | None = None  # everything goes to the proxy on this port of 127.0.0.1, nothing directly
    hosts: Mapping[str, str] = field(default_factory=dict)  # name to address, before any DNS
    connect_ports: Sequence[int] | None = None  # the ports that CONNECT may reach (403 for others); None is any


@dataclass(frozen=True, slots=True)
class Access:
    """A line of the access log: ``CONNECT kms.us-east-1.amazonaws.com:443``, its status, who was authenticated ('-': nobody)."""

    method: str
    target: str
    status: int
    user: str
    hierarchy: str  # how it went on: ``HIER_DIRECT/127.0.0.1``, ``FIRSTUP_PARENT/127.0.0.1``, ``HIER_NONE/-``


class Squid:
    """One Squid, with all its files in a folder of its own below `folder`."""

    def __init__(self, folder: Path, options: SquidOptions) -> None:
        self._program = require_program("squid")
        self._options = options
        self._folder = Path(tempfile.mkdtemp(prefix="squid-", dir=folder))
        self._process: ServerProcess | None = None
        #: 0 before the first start; the same from then on.
        self.port = 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def url(self, user: str | None = None) -> str:
        """What HTTPS_PROXY names, with the name and password of `user` in it."""
        scheme = "http" if self._options.certificate is None else "https"
        who = "" if user is None else f"{user}:{self._options.users[user]}@"
        return f"{scheme}://{who}{self.address}"

    def start(self) -> None:
        """Start it, for the first time or again on the same port. Returns when it accepts connections."""
        fixed = bool(self.port)
        for attempt in range(_ATTEMPTS):
            if not fixed:
                (self.port,) = free_ports(1)
            self._write_files()
            argv = [self._program, "-N", "-n", f"keytrail{self.port}", "-f", "squid.conf"]
            self._process = ServerProcess(argv, self._folder, self._folder / "output", user=_USER)
            try:
                # The files are named from the folder that it stands in: those above are closed to its user.
                self._process.wait_for(r"Accepting .*HTTPS? Socket connections at", self._folder / "cache.log")
                return
            except NotStarted as error:
                if fixed or attempt == _ATTEMPTS - 1 or "in use" not in str(error):
                    raise

    def stop(self) -> None:
        if self._process is not None:
            self._process.stop()
            self._process = None

    @property
    def accesses(self) -> list[Access]:
        """What it has done. A tunnel is logged when it has ended; so is a connection that said nothing, as method ``-``."""
        log = self._folder / "access.log"
        fields = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
        return [Access(method, target, int(status), user, hierarchy) for method, target, status, user, hierarchy in fields]

    def _write_files(self) -> None:
        files = {"squid.conf": "\n".join([*self._lines(), ""]), "cache.log": ""}
        files["hosts"] = "".join(f"{address} {name}\n" for name, address in self._options.hosts.items())
        files["users"] = "".join(f"{name}:{_hashed(password)}\n" for name, password in self._options.users.items())
        for name, text in files.items():
            (self._folder / name).write_text(text)
        if self._options.certificate is not None:
            shutil.copy(self._options.certificate.chain, self._folder / "squid.pem")
            shutil.copy(self._options.certificate.key, self._folder / "squid.key")
        if os.geteuid() == 0:
            for path in (self._folder, *self._folder.iterdir()):
                shutil.chown(path, _USER, _USER)

    def _lines(self) -> Iterator[str]:
        options = self._options
        if options.certificate is None:
            yield f"http_port {self.address}"
        else:
            yield f"https_port {self.address} tls-cert=squid.pem tls-key=squid.key"
        yield from _ALONE
        if options.users:
            yield f"auth_param basic program {_HELPER} users"
            yield "auth_param basic children 1 startup=1"
            yield "auth_param basic realm corporate proxy"
            yield "acl known proxy_auth REQUIRED"
        if options.connect_ports is not None:
            yield f"acl allowed port {' '.join(map(str, options.connect_ports))}"
            yield "http_access deny CONNECT !allowed"
        yield f"http_access allow localhost{' known' if options.users else ''}"
        yield "http_access deny all"
        if options.parent_port is not None:
            yield f"cache_peer 127.0.0.1 parent {options.parent_port} 0 no-query no-digest default"
            yield "never_direct allow all"


#: No port but its own, no file outside its folder, no name but those it is given, no pause at its end.
_ALONE = (
    "pid_filename none",
    "visible_hostname squid.test",
    "logformat plain %rm %ru %>Hs %un %Sh/%<a",
    "access_log stdio:access.log plain",
    "cache_log cache.log",
    "cache_store_log none",
    "buffered_logs off",
    "cache deny all",
    "cache_mem 8 MB",
    "max_filedescriptors 1024",
    "pinger_enable off",
    "icp_port 0",
    "hosts_file hosts",
    "dns_nameservers 127.0.0.1",
    "dns_timeout 1 second",
    "connect_timeout 5 seconds",
    "shutdown_lifetime 0 seconds",
)


def _hashed(password: str) -> str:
    """A password as basic_ncsa_auth takes it without crypt(3): MD5 in hexadecimal digits."""
    return hashlib.md5(password.encode(), usedforsecurity=False).hexdigest()


@contextmanager
def squid(folder: Path, options: SquidOptions | None = None) -> Iterator[Squid]:
    """A running Squid, stopped at the end."""
    server = Squid(folder, options or SquidOptions())
    server.start()
    try:
        yield server
    finally:
        server.stop()
