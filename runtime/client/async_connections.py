"""Keep-alive connections for callers on an event loop. aiohttp is imported by the first call, not by importing teal."""

import io
import time
from typing import TYPE_CHECKING

from runtime.client.exchange import Garbled, Late, Lost, RawAnswer, Request, Unreached, Untrusted
from runtime.client.session import Session

if TYPE_CHECKING:
    import aiohttp

SHOWN_CHARACTERS = 120


class AsyncConnections:
    def __init__(self, session: Session) -> None:
        self._session = session
        self._http: aiohttp.ClientSession | None = None

    async def exchange(self, request: Request, deadline_at: float) -> RawAnswer:
        """The answer, whatever its status. Raises a Fault if no whole answer came until `deadline_at` (monotonic)."""
        import aiohttp

        if self._http is None:
            self._http = self._open()
        session, body = self._session, request.body
        left_s = max(0.001, deadline_at - time.monotonic())
        # aiohttp's default rounds long timeouts up to whole seconds, and a deadline is no place to round.
        timeout = aiohttp.ClientTimeout(total=left_s, sock_connect=session.connect_timeout_s, ceil_threshold=1e9)
        try:
            async with self._http.request(
                request.method,
                str(session.origin) + request.path,
                # From one MiB on aiohttp warns of bytes, which it would write in one go.
                data=io.BytesIO(body) if body is not None and len(body) >= 1 << 20 else body,
                headers=session.headers | request.headers,
                timeout=timeout,
                allow_redirects=False,
            ) as response:
                content = await response.read()
                headers = {name.lower(): value for name, value in response.headers.items()}
                return RawAnswer(status=response.status, headers=headers, body=content)
        except aiohttp.ClientConnectorCertificateError as error:
            raise Untrusted(str(error)) from error
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            if time.monotonic() >= deadline_at:
                raise Late(str(error)) from error
            raise Unreached(str(error)) from error
        except TimeoutError as error:
            raise Late(str(error)) from error
        except (aiohttp.ClientPayloadError, aiohttp.ClientConnectionError, OSError) as error:
            raise Lost(str(error) or type(error).__name__) from error
        except aiohttp.ClientError as error:
            # Only its own words: its text and form hold the request, headers and token included.
            words = error.message if isinstance(error, aiohttp.ClientResponseError) else ""
            raise Garbled(f"{type(error).__name__}: {words[:SHOWN_CHARACTERS]}") from None

    async def close(self) -> None:
        if self._http is not None:
            await self._http.close()
            self._http = None

    def _open(self) -> "aiohttp.ClientSession":
        import aiohttp

        session = self._session
        # True: the default checks, which http never asks for.
        connector = aiohttp.TCPConnector(limit=session.max_connections, ssl=session.ssl_context or True)
        # Compressed answers would be unpacked by this client and not by the blocking one.
        return aiohttp.ClientSession(connector=connector, skip_auto_headers=["accept-encoding"])
