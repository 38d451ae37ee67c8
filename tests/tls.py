"""TLS in front of a server that has none: a proxy that ends it, with certificates of an authority of our own."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import trustme

_BYTES = 65_536


class Authority:
    """Signs certificates, for a host of this machine or another."""

    def __init__(self, folder: Path) -> None:
        self._authority = trustme.CA()
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.certificate = folder / "authority.pem"
        self._authority.cert_pem.write_to_path(self.certificate)

    def pair(self, host: str) -> tuple[Path, Path]:
        """Return the files of a certificate for a host and of its key."""
        made = self._authority.issue_cert(host)
        certificate, key = self._folder / f"{host}.pem", self._folder / f"{host}.key"
        for number, blob in enumerate(made.cert_chain_pems):
            blob.write_to_path(certificate, append=number > 0)
        made.private_key_pem.write_to_path(key)
        return certificate, key


class Ending:
    """A port of this machine where TLS ends before another port of it."""

    def __init__(self, port: int, pair: tuple[Path, Path], *, clients_of: Path | None = None) -> None:
        self._port = port
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(*pair)
        if clients_of is not None:
            self._context.verify_mode = ssl.CERT_REQUIRED
            self._context.load_verify_locations(clients_of)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.refused = 0
        """Handshakes that have failed."""
        self.connections = 0
        self._open: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._serve, daemon=True)]
        self._threads[0].start()

    def close(self) -> None:
        """End all connections, and the threads that pass on their bytes."""
        for each in (self._listener, *self._open):
            # Whoever waits for it in another thread goes on.
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for thread in self._threads:
            thread.join(30)

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._begin(self._link, connection)

    def _begin(self, work: object, *arguments: socket.socket) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)  # pyright: ignore[reportArgumentType]
        self._threads.append(thread)
        thread.start()

    def _link(self, connection: socket.socket) -> None:
        connection.settimeout(30)
        try:
            client = self._context.wrap_socket(connection, server_side=True)
        except OSError:
            self.refused += 1
            connection.close()
            return
        self.connections += 1
        server = socket.create_connection(("127.0.0.1", self._port))
        client.settimeout(None)
        self._open |= {client, server}
        self._begin(self._pass_on, server, client)
        self._pass_on(client, server)

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(_BYTES):
                target.sendall(data)
        for each in (source, target):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def ending(port: int, pair: tuple[Path, Path], *, clients_of: Path | None = None) -> Iterator[Ending]:
    """End TLS before a port for a while; ``clients_of``: an authority whose certificates clients have to show."""
    made = Ending(port, pair, clients_of=clients_of)
    try:
        yield made
    finally:
        made.close()
