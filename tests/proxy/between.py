"""What stands between a client and a server, and cuts their connection at a word."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress


class Between:
    """A TCP relay on loopback, to `port`. `cut_at(word, delivered)`: the connection on which the client next says `word` is cut,
    when the server has answered it (`delivered`), or before it hears it. While `refuses`, new connections are closed at once."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._word: bytes | None = None
        self._delivered = False
        self.refuses = False
        self.cuts = 0
        self._open: list[socket.socket] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_at(self, word: bytes, *, delivered: bool, then_refuse: bool = False) -> None:
        self._word, self._delivered, self._then_refuse = word, delivered, then_refuse

    def refuse(self) -> None:
        """Cut every connection, and take no new one, until `refuses` is taken back."""
        self.refuses = True
        _end(*self._open)
        self._open = []

    def close(self) -> None:
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            try:
                if self.refuses:
                    raise ConnectionRefusedError
                server = socket.create_connection(("127.0.0.1", self._to))
            except OSError:
                client.close()
                continue
            self._open += [client, server]
            cut = threading.Event()
            threading.Thread(target=self._forward, args=(client, server, cut), daemon=True).start()
            threading.Thread(target=self._back, args=(server, client, cut), daemon=True).start()

    def _forward(self, client: socket.socket, server: socket.socket, cut: threading.Event) -> None:
        with suppress(OSError):
            while said := client.recv(1 << 16):
                if self._word is not None and self._word in said:
                    self._word = None
                    self.cuts += 1
                    self.refuses = self._then_refuse
                    cut.set()
                    if not self._delivered:
                        break
                server.sendall(said)
        if not (cut.is_set() and self._delivered):
            _end(client, server)

    def _back(self, server: socket.socket, client: socket.socket, cut: threading.Event) -> None:
        with suppress(OSError):
            while (answer := server.recv(1 << 16)) and not cut.is_set():
                client.sendall(answer)
        _end(client, server)


def _end(*sockets: socket.socket) -> None:
    for one in sockets:
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)  # which wakes whoever reads from it
        one.close()
