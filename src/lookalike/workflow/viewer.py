"""`view`: the gallery and the full images of one run, for a browser on this machine only.

The server knows a closed list of addresses: a few files of the run by name, and the images of its pair table by an
identity that says nothing about their paths. It listens on the loopback address and reads nothing but GET and HEAD.

Who may ask: the browser that opened the printed address. That holds a random token, which is turned into a cookie; a
request without it is refused, so that neither another user or program of this machine nor a page of the web sees
anything. A page of the web could make this browser ask, with the cookie: so a request that names another host (DNS
rebinding), comes from another origin, or is made by another site's page is refused, too, and no page may frame these.
"""

from __future__ import annotations

import hmac
import html
import http.cookies
import http.server
import io
import logging
import os
import re
import secrets
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from lookalike.errors import ConfigError, MissingDependency
from lookalike.images.decode import decode, media_type
from lookalike.images.locate import read_bytes
from lookalike.images.outcome import ImageRejected, Reason
from lookalike.reports.gallery import old_pages
from lookalike.reports.gallery_data import GalleryData, image_id, load
from lookalike.tables.boxes import split_box
from lookalike.tables.run_folder import RunFolder
from lookalike.workflow.gallery import remake_gallery
from lookalike.workflow.run_state import check_finished

log = logging.getLogger(__name__)

#: The only address that is listened on.
ADDRESS = "127.0.0.1"
#: Where the ports of runs begin and how many there are: below those that the system hands out.
_FIRST_PORT, _PORTS = 20_000, 12_000
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".md": "text/plain; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
    ".json": "application/json",
    ".png": "image/png",
    ".parquet": "application/vnd.apache.parquet",
}
#: Sent with everything: no guessing of types, no use by other sites, no trace of where a link was followed.
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-cache",
}
#: What a page without a policy of its own, or anything that is no page, may do in the browser: be shown.
_CLOSED = "default-src 'none'; style-src 'unsafe-inline'; sandbox"
#: The policy of a gallery, as its head has it.
_POLICY = re.compile(rb'<meta http-equiv="Content-Security-Policy" content="([^"]*)">')
_HEAD_BYTES = 4096
#: What a browser says of a request that a page of another address made; an open link is no such request.
_FOREIGN = frozenset({"cross-site", "same-site"})
#: Answers to what becomes of an image that cannot be sent; the rest is forbidden.
_STATUS = {Reason.MISSING: HTTPStatus.NOT_FOUND, Reason.NOT_AN_IMAGE: HTTPStatus.UNSUPPORTED_MEDIA_TYPE}


@dataclass(frozen=True)
class Site:
    """What is served.

    Attributes
    ----------
    data:
        The run.
    files:
        Files of the run by their addresses.
    images:
        Paths of images by their identities.
    """

    data: GalleryData
    files: dict[str, Path]
    images: dict[str, str]

    @property
    def port(self) -> int:
        """The run's own port, the same every time: a browser keeps decisions by address and port."""
        return _FIRST_PORT + int(self.data.identity[:8], 16) % _PORTS


def open_site(run: Path) -> Site:
    """Collect what may be served of a run; its gallery is made where there is none.

    Raises
    ------
    TableError
        When the folder is no finished run.
    """
    folder = RunFolder(run)
    check_finished(folder)
    data = load(folder)
    if not folder.gallery.exists():
        remake_gallery(run)
    pages = [folder.gallery, *old_pages(folder)]
    tables = [folder.mined, folder.reviewed, folder.pairs]
    files = [*pages, folder.report, folder.summary, folder.record, *tables, *sorted(folder.plots.glob("*.png"))]
    paths = {*data.target_paths, *data.pairs.column("source_filepath").to_pylist()}
    return Site(
        data,
        {f"/{file.relative_to(folder.path).as_posix()}": file for file in files if file.is_file()},
        {image_id(path): path for path in paths},
    )


class Server(http.server.ThreadingHTTPServer):
    """Serves one site on the loopback address."""

    daemon_threads = True
    # So that the next server of this run has the port at once; on Windows it would let another program take it.
    allow_reuse_address = os.name != "nt"

    def __init__(self, site: Site, port: int) -> None:
        self.site = site
        super().__init__((ADDRESS, port), _Handler)
        self.hosts = {f"{name}:{self.server_port}" for name in (ADDRESS, "localhost")}
        self._token = secrets.token_urlsafe(24)
        # Cookies do not tell ports apart, and several runs may be viewed at a time.
        self._cookie = f"lookalike-{self.server_port}"

    @property
    def url(self) -> str:
        """The address of the gallery, with the token; who has it may look at the run while the server runs."""
        return f"http://{ADDRESS}:{self.server_port}/gallery.html?token={self._token}"

    @property
    def set_cookie(self) -> str:
        """What lets a browser in from now on, until it is closed."""
        return f"{self._cookie}={self._token}; Path=/; HttpOnly; SameSite=Lax"

    def knows(self, token: str) -> bool:
        """Whether a token is this server's."""
        return hmac.compare_digest(token.encode(), self._token.encode())

    def lets_in(self, cookies: str) -> bool:
        """Whether the cookies of a request hold the token."""
        try:
            held = http.cookies.SimpleCookie(cookies).get(self._cookie)
        except http.cookies.CookieError:
            return False
        return held is not None and self.knows(held.value)


def open_server(site: Site, port: int | None) -> Server:
    """Listen on a port, or on the run's own; where that is taken, on any free one, with a warning.

    Raises
    ------
    ConfigError
        When the port that the user named cannot be had.
    """
    if port is not None:
        try:
            return Server(site, port)
        except (OSError, OverflowError) as error:
            raise ConfigError(
                f"port {port} cannot be used: {getattr(error, 'strerror', None) or error}",
                hint="name another one with --port, or leave it out",
            ) from error
    try:
        return Server(site, site.port)
    except OSError:
        server = Server(site, 0)
        log.warning(
            "port %d is taken, %d is used: decisions made at the other port are not seen here; export and import "
            "them", site.port, server.server_port,
        )  # fmt: skip
        return server


class _Handler(http.server.BaseHTTPRequestHandler):
    """Answers one request."""

    server: Server
    server_version = "lookalike"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer with a page, a file of the run, or an image of its pair table."""
        if not self._is_own():
            self._say(HTTPStatus.FORBIDDEN, "this server answers only to its own pages, by its own name")
            return
        address, query = urlsplit(self.path)[2:4]
        site = self.server.site
        if any(map(self.server.knows, parse_qs(query).get("token", ()))):
            # Without the token in the address: it would stay in the browser's history.
            self._redirect(address, self.server.set_cookie)
        elif not self.server.lets_in(self.headers.get("Cookie", "")):
            words = "open the address that `lookalike view` printed, with its token"
            self._say(HTTPStatus.FORBIDDEN, words)
        elif address == "/":
            self._redirect("/gallery.html")
        elif file := site.files.get(address):
            self._send_file(file)
        elif path := site.images.get(address.removeprefix("/image/")):
            self._send_image(path)
        else:
            self._say(HTTPStatus.NOT_FOUND, "there is nothing here that belongs to this run")

    do_HEAD = do_GET  # noqa: N815 - the names are http.server's

    def _is_own(self) -> bool:
        """Whether a request names this server, and was made by one of its pages or by the user."""
        hosts = self.server.hosts
        host, origin = self.headers.get("Host"), self.headers.get("Origin")
        foreign = self.headers.get("Sec-Fetch-Site") in _FOREIGN and self.headers.get("Sec-Fetch-Mode") != "navigate"
        return host in hosts and origin in (None, f"http://{host}") and not foreign

    def _redirect(self, address: str, cookie: str = "") -> None:
        self.send_response(HTTPStatus.FOUND)
        # One slash: two, or a backslash after it, would name another host.
        self.send_header("Location", "/" + address.lstrip("/\\"))
        if cookie:
            self.send_header("Set-Cookie", cookie)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send_file(self, file: Path) -> None:
        try:
            data = file.read_bytes()
        except OSError:
            self._say(HTTPStatus.NOT_FOUND, "the file is not there any more")
            return
        self._send(HTTPStatus.OK, data, _TYPES[file.suffix], _policy(data) if file.suffix == ".html" else _CLOSED)

    def _send_image(self, path: str) -> None:
        """Send an image as it is on disk, by the type of its bytes: a table may name a file that is no image.

        Of a file of which only a part is the image, that part is sent.
        """
        reading, box = self.server.site.data.reading, split_box(path)[1]
        try:
            data = read_bytes(path, reading.files)
            if box is not None:
                stream = io.BytesIO()
                decode(data, reading.pixels, box=box).image.save(stream, "PNG")
                data = stream.getvalue()
            kind = media_type(data)
        except ImageRejected as outcome:
            status = _STATUS.get(outcome.reason, HTTPStatus.FORBIDDEN)
            self._say(status, f"{outcome.reason}: {outcome.detail}")
        except MissingDependency as error:
            self._say(HTTPStatus.NOT_IMPLEMENTED, error.what)
        else:
            self._send(HTTPStatus.OK, data, kind)

    def _say(self, status: HTTPStatus, words: str) -> None:
        self._send(status, f"{status.value} {status.phrase}: {words}\n".encode(), "text/plain; charset=utf-8")

    def _send(self, status: HTTPStatus, data: bytes, kind: str, policy: str = _CLOSED) -> None:
        self.send_response(status)
        self.send_header("Content-Security-Policy", f"{policy}; frame-ancestors 'none'")
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            try:
                self.wfile.write(data)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True  # the browser went on before it was all there

    def end_headers(self) -> None:
        """Add what every answer says."""
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """A line for each request, for who looks for it."""
        log.debug(format, *args)


def _policy(page: bytes) -> str:
    """The policy of a gallery as a header, which a browser takes more seriously than the page's head.

    It lets exactly the page's own scripts run; a page that has none, or a lax one, is not ours and runs no script.
    """
    found = _POLICY.search(page[:_HEAD_BYTES])
    policy = html.unescape(found[1].decode("ascii", "replace")) if found else ""
    if not policy.startswith("default-src 'none'") or "unsafe" in policy or not policy.isprintable():
        return _CLOSED
    return policy.replace(" file:", "")
