"""Files on web servers, read like local ones."""

from __future__ import annotations

import base64
import io
import os
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from http.client import HTTPException, HTTPMessage, HTTPResponse, InvalidURL
from pathlib import Path
from typing import IO

from coviar_mocrop.bitstream.types import Source
from coviar_mocrop.errors import VideoError
from coviar_mocrop.messages import reason_of, redacted

TIMEOUT = 20.0
"""Seconds without an answer after which a server is given up."""

UNSIZED = 30.0
"""Seconds that a download may take if the server does not say the size of the file."""

_TRIES = 3
_DELIMITERS = "%/:=&?~#+!$,;'@()*[]"  # of addresses; all other special characters are escaped


def is_address(source: Source) -> bool:
    """Whether ``source`` is an http or https address."""
    return isinstance(source, str) and source.lower().startswith(("http://", "https://"))


def file_name(source: str | os.PathLike[str]) -> str:
    """The file's name, without folders; of an address, without server and query."""
    path = urllib.parse.urlsplit(source).path if isinstance(source, str) and is_address(source) else source
    return Path(path).name or "video"


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects. The same server gets the password again, no other one does."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        """See ``HTTPRedirectHandler``."""
        following = super().redirect_request(req, fp, code, msg, headers, newurl)
        sent = req.unredirected_hdrs.get("Authorization")
        if following is not None and sent and _origin(newurl) == _origin(req.full_url):
            following.add_unredirected_header("Authorization", sent)
        return following


class RemoteFile(io.RawIOBase):
    """A file on a web server, open for reading bytes.

    If the server can send parts of a file (byte ranges), only the parts that are read are transferred. Otherwise the
    whole file is downloaded into a temporary file first. A broken connection is opened again where it broke.

    Reading does not raise, because FFmpeg would take an error for the end of the file. It gives nothing more, and
    ``broken`` says why.

    A user name and a password in the address are sent as HTTP's Basic Authentication asks for, and only to the server
    that the address names, also if it redirects to itself: not to another one that it redirects to.

    Attributes:
        name: the address without its password.
        broken: what ended the connection for good; empty while it works.
    """

    def __init__(self, address: str) -> None:
        """Connect.

        Raises:
            VideoError: the server cannot be reached or does not have the file, or the download broke.
        """
        self.name = redacted(address)
        self.broken = ""
        self._position = self._size = 0
        self._local: IO[bytes] | None = None
        self._response: HTTPResponse | None = None
        try:
            self._address, self._credentials = _without_user(address)
            self._response = self._request(0)
            size = self._response.headers.get("Content-Range", "").rpartition("/")[2]
            if self._response.status == 206 and size.isdecimal():
                self._size = int(size)
                return
        except urllib.error.HTTPError as error:
            raise VideoError(
                f"{self.name}: the server refused the request ({error.code} {error.reason}); check the address"
            ) from error
        except (OSError, HTTPException, ValueError) as error:
            if isinstance(error, (InvalidURL, ValueError)) and "@" in address:  # their text may hold the password
                raise VideoError(
                    f"{self.name}: is not a valid address; write special characters of a user name and a password as "
                    "%XX, such as %2F for a slash"
                ) from None
            raise VideoError(
                f"{self.name}: cannot be reached ({_reason(error)}); check the address and the network"
            ) from error
        try:
            self._download(self._response)
        except VideoError:
            self.close()
            raise
        except (OSError, HTTPException, ValueError) as error:
            self.broken = _reason(error)
            self.close()
            raise VideoError(connection_problem(self)) from error

    def _request(self, start: int) -> HTTPResponse:
        """Ask for the file from byte ``start`` on."""
        request = urllib.request.Request(urllib.parse.quote(self._address, safe=_DELIMITERS))
        request.add_header("Range", f"bytes={start}-")
        if self._credentials:
            request.add_unredirected_header("Authorization", f"Basic {self._credentials}")
        response: HTTPResponse = urllib.request.build_opener(_Redirects).open(request, timeout=TIMEOUT)
        return response

    def _download(self, response: HTTPResponse) -> None:
        self._local = tempfile.TemporaryFile()  # noqa: SIM115, closed with this
        expected = response.headers["Content-Length"]
        until = time.monotonic() + UNSIZED
        while data := response.read1(1 << 20):
            self._local.write(data)
            if expected is None and time.monotonic() > until:
                raise VideoError(
                    f"{self.name}: has sent {self._local.tell() >> 20} MB in {UNSIZED:.0f} s, and its server does not "
                    "say how much it is; if it never ends, coviar watch reads it (in Python: Predictor.over_time), "
                    "else download it first"
                )
        if expected is not None and self._local.tell() != int(expected):
            raise OSError(f"{self._local.tell()} of {expected} bytes came")
        self._local.seek(0)

    def read(self, size: int = -1) -> bytes:
        """Read up to ``size`` bytes; nothing at the end, or once the connection is ``broken``."""
        if self._local is not None:
            return self._local.read(size)
        wanted = self._size - self._position
        wanted = wanted if size < 0 else min(size, wanted)
        for _ in range(_TRIES):
            if wanted <= 0 or self.broken:
                return b""
            try:
                if self._response is None:
                    self._response = self._request(self._position)
                    if self._response.status != 206:
                        raise OSError(f"the server answers {self._response.status} instead of 206")
                data = self._response.read(wanted)
                if data:
                    self._position += len(data)
                    return data
                problem = f"{self._position} of {self._size} bytes came"
            except (OSError, HTTPException, ValueError) as error:
                problem = _reason(error)
            self._disconnect()
        self.broken = problem
        return b""

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to another position; nothing is transferred before the next read."""
        if self._local is not None:
            return self._local.seek(offset, whence)
        position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if position != self._position:
            self._disconnect()
            self._position = max(position, 0)
        return self._position

    def tell(self) -> int:
        """Position in bytes."""
        return self._position if self._local is None else self._local.tell()

    def seekable(self) -> bool:
        """Whether it can be sought in: always."""
        return True

    def readable(self) -> bool:
        """Whether it can be read: always."""
        return True

    def close(self) -> None:
        """End the connection."""
        self._disconnect()
        if self._local is not None:
            self._local.close()
        super().close()

    def _disconnect(self) -> None:
        if self._response is not None:
            self._response.close()
            self._response = None


def _origin(address: str) -> tuple[str, str | None, int]:
    """Scheme, host and port of an http or https address."""
    parts = urllib.parse.urlsplit(address)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)


def _without_user(address: str) -> tuple[str, str]:
    """An address without user and password, and these as Basic Authentication sends them; empty without a user."""
    user, at, _ = urllib.parse.urlsplit(address).netloc.rpartition("@")
    if not at:
        return address, ""
    name, _, password = user.partition(":")
    sent = f"{urllib.parse.unquote(name)}:{urllib.parse.unquote(password)}"
    return address.replace(f"//{user}@", "//", 1), base64.b64encode(sent.encode()).decode()


def connection_problem(source: object) -> str:
    """The message for a source whose connection broke; empty for all others."""
    if not isinstance(source, RemoteFile) or not source.broken:
        return ""
    return f"{source.name}: the connection broke ({source.broken}); try again, or download the file first"


def _reason(error: Exception) -> str:
    while isinstance(error, urllib.error.URLError) and isinstance(error.reason, Exception):
        error = error.reason
    if isinstance(error, TimeoutError):
        return f"no answer within {TIMEOUT:.0f} s"
    return redacted(reason_of(error))
