"""Keep-alive connections for blocking callers, on the standard library. Knows HTTP, and nothing of predictions."""

import contextlib
import http.client
import io
import os
import select
import socket
import ssl
import threading
import time
from typing import Any

from runtime.client.exchange import Fault, Garbled, Late, Lost, RawAnswer, Request, Unreached, Untrusted
from runtime.client.session import Session

SHOWN_CHARACTERS = 120


class Connections:
    """Safe to share between threads: a connection serves one exchange at a time. As many are open as threads ask at
    once; those beyond `max_connections` are not kept.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._idle: list[http.client.HTTPConnection] = []
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._is_closed = False

    def exchange(self, request: Request, deadline_at: float) -> RawAnswer:
        """The answer, whatever its status. Raises a Fault if no whole answer came until `deadline_at` (monotonic)."""
        connection = self._take() or self._open(deadline_at)
        is_reusable = False
        try:
            _timed(connection).deadline_at = deadline_at
            answer, is_reusable = self._send(connection, request)
        except TimeoutError as error:
            raise Late(str(error)) from error
        except http.client.IncompleteRead as error:
            raise Lost(f"after {len(error.partial)} bytes of the body") from error
        except OSError as error:
            # Before the other HTTPException: a connection closed without a word is both.
            raise Lost(str(error) or type(error).__name__) from error
        except http.client.HTTPException as error:
            raise Garbled(repr(error)[:SHOWN_CHARACTERS]) from error
        finally:
            if is_reusable:
                self._put_back(connection)
            else:
                connection.close()
        return answer

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _send(self, connection: http.client.HTTPConnection, request: Request) -> tuple[RawAnswer, bool]:
        headers = {name: value.encode() for name, value in (self._session.headers | request.headers).items()}
        # A server that refuses a large body may answer and close before it has read all: its answer is there to read.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.request(request.method, self._session.origin.path + request.path, request.body, headers)
        response = connection.getresponse()
        body = response.read()
        answer = RawAnswer(
            status=response.status, headers={name.lower(): value for name, value in response.getheaders()}, body=body
        )
        return answer, not response.will_close

    def _open(self, deadline_at: float) -> http.client.HTTPConnection:
        session, origin = self._session, self._session.origin
        left_s = deadline_at - time.monotonic()
        if left_s <= 0:
            raise Late("before a connection was open")
        timeout_s = min(session.connect_timeout_s, left_s)
        connection: http.client.HTTPConnection
        if session.ssl_context is None:
            connection = http.client.HTTPConnection(origin.host, origin.port, timeout=timeout_s)
        else:
            connection = http.client.HTTPSConnection(
                origin.host, origin.port, timeout=timeout_s, context=session.ssl_context
            )
        # Never by itself: a connection it opened would know no deadline.
        connection.auto_open = 0
        try:
            connection.connect()
        except ssl.SSLCertVerificationError as error:
            connection.close()
            raise Untrusted(error.verify_message) from error
        except OSError as error:
            connection.close()
            raise _unopened(error, origin=str(origin), is_late=time.monotonic() >= deadline_at) from error
        connection.sock = TimedSocket(connection.sock)
        return connection

    def _take(self) -> http.client.HTTPConnection | None:
        """The connection used last of those that the server has kept open as well."""
        while True:
            with self._lock:
                if self._process != os.getpid():
                    # After a fork they are the parent's: used by both, each would read the other's answers.
                    self._process, self._idle = os.getpid(), []
                if not self._idle:
                    return None
                connection = self._idle.pop()
            if not _timed(connection).has_ended():
                return connection
            connection.close()

    def _put_back(self, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            if not self._is_closed and len(self._idle) < self._session.max_connections:
                self._idle.append(connection)
                return
        connection.close()


class TimedSocket:
    """What http.client needs of a socket, ending at a deadline however slowly the bytes come: a socket's own timeout
    begins anew with every byte.
    """

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self.deadline_at = 0.0

    def sendall(self, data: Any) -> None:
        self._set_timeout()
        self._socket.sendall(data)

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_TimedReader(self, self._socket.makefile("rb", buffering=0)))

    def close(self) -> None:
        self._socket.close()

    def has_ended(self) -> bool:
        """Whether the other side has closed, or said something that nobody asked for."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(0))

    def _set_timeout(self) -> None:
        left_s = self.deadline_at - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("the deadline passed")
        self._socket.settimeout(left_s)


class _TimedReader(io.RawIOBase):
    def __init__(self, timed: TimedSocket, raw: Any) -> None:
        self._timed = timed
        self._raw = raw

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._timed._set_timeout()
        count: int | None = self._raw.readinto(buffer)
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


def _timed(connection: http.client.HTTPConnection) -> TimedSocket:
    timed = connection.sock
    assert isinstance(timed, TimedSocket)
    return timed


def _unopened(error: OSError, *, origin: str, is_late: bool) -> Fault:
    if is_late:
        return Late(f"{origin} could not be reached in time")
    return Unreached(f"{origin}: {error}")
