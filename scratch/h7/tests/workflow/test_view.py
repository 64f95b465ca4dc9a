"""`lookalike view`: real HTTP on a free port; only this run's files and images, only for this machine."""

import base64
import hashlib
import http.client
import re
import signal
import time
from typing import NamedTuple

import pytest

from lookalike.reports.gallery import write_gallery
from lookalike.reports.gallery_data import image_id
from support.runs import make_images, make_run

SECRET = "nobody's business"


@pytest.fixture
def run(tmp_path):
    """A run with a text file where an image should be, and secrets in its folder and beside it."""
    paths = make_images(tmp_path / "images", 4, "pool")
    (tmp_path / "passwords.png").write_text(SECRET)
    folder = make_run(tmp_path / "run", targets=2, pool_paths=[*paths, str(tmp_path / "passwords.png")], topn=5)
    folder.transcript.write_text(SECRET)
    folder.log.write_text(SECRET)
    (tmp_path / "images" / "not_in_the_run.png").write_text(SECRET)
    return folder


@pytest.fixture
def served(run, start_command, tmp_path):
    """The process, and where it listens."""
    write_gallery(run)
    process = start_command("lookalike", "view", run.path, "--no-browser", "--port", "0", cwd=tmp_path)
    address = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/gallery\.html\?token=([\w-]{32})\n", process.stdout.readline())
    assert address, process.stderr.read()
    return process, Server(int(address[1]), address[2])


class Server(NamedTuple):
    port: int
    token: str

    @property
    def cookie(self):
        return f"lookalike-{self.port}={self.token}"


def ask(server, path, method="GET", **headers):
    """Ask as the browser does that opened the printed address; a header of None is left out."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    headers = {"Cookie": server.cookie, **{name.replace("_", "-"): value for name, value in headers.items()}}
    connection.request(method, path, headers={name: value for name, value in headers.items() if value is not None})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, answer.headers, body


def test_it_serves_the_run_and_nothing_else(served, run, tmp_path):
    _, server = served
    assert ask(server, "/")[1]["Location"] == "/gallery.html"
    status, headers, body = ask(server, "/gallery.html")
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert body == run.gallery.read_bytes()
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert ask(server, "/mining_summary.txt")[2] == run.summary.read_bytes()
    assert ask(server, "/gallery.html", "HEAD")[2] == b""
    image = tmp_path / "images" / "pool_000.png"
    status, headers, body = ask(server, f"/image/{image_id(str(image))}")
    assert (status, headers["Content-Type"], body) == (200, "image/png", image.read_bytes())
    outside = tmp_path / "images" / "not_in_the_run.png"
    for path in (
        f"/image/{image_id(str(outside))}", f"/image/{outside}", f"/image/{image}", str(image), "/image/", "/image/0",
        "/images/../../images/pool_000.png", "/../images/pool_000.png", "/%2e%2e/images/pool_000.png",
        "/..%2fimages%2fpool_000.png", "/etc/passwd", "//etc/passwd", "/claude_session.jsonl", "/run.log", "/plots/",
        "/plots", "/gallery.html/..", "/.", "/target_embeddings.parquet",
    ):  # fmt: skip
        status, _, body = ask(server, path)
        assert status == 404, path
        assert SECRET.encode() not in body
    assert ask(server, "/gallery.html", "POST")[0] == 501


def test_a_file_that_is_no_image_is_not_sent(served, tmp_path):
    _, server = served
    status, headers, body = ask(server, f"/image/{image_id(str(tmp_path / 'passwords.png'))}")
    assert status == 415
    assert headers["Content-Type"].startswith("text/plain")
    assert SECRET.encode() not in body


def test_an_image_that_is_gone_is_not_found(served, tmp_path):
    _, server = served
    path = tmp_path / "images" / "pool_001.png"
    path.unlink()
    assert ask(server, f"/image/{image_id(str(path))}")[0] == 404


def test_it_answers_only_to_its_own_name(served):
    _, server = served
    for host in ("evil.example", f"evil.example:{server.port}", "127.0.0.1", f"127.0.0.1:{server.port + 1}"):
        assert ask(server, "/gallery.html", Host=host)[0] == 403
        assert ask(server, f"/gallery.html?token={server.token}", Host=host)[0] == 403
    assert ask(server, "/gallery.html", Host=f"localhost:{server.port}")[0] == 200


def test_nobody_comes_in_without_the_token(served, run, tmp_path):
    _, server = served
    image = f"/image/{image_id(str(tmp_path / 'images' / 'pool_000.png'))}"
    other = "x" * len(server.token)
    for path in ("/", "/gallery.html", "/run.json", "/mined.parquet", image, "/nothing"):
        for query in ("", "?token=", f"?token={other}", f"?token={server.token[:-1]}", "?token=%C3%A9"):
            for cookie in (None, f"lookalike-{server.port}={other}", f"lookalike={server.token}", "=;;\x00", "é=1"):
                status, headers, body = ask(server, path + query, Cookie=cookie)
                assert (status, headers["Set-Cookie"]) == (403, None)
                assert b"lookalike view" in body
                assert server.token.encode() not in body


def test_the_token_becomes_a_cookie_and_leaves_the_address(served, run):
    _, server = served
    status, headers, _ = ask(server, f"/gallery.html?token={server.token}", Cookie=None)
    assert (status, headers["Location"]) == (302, "/gallery.html")
    cookie, *rules = headers["Set-Cookie"].split("; ")
    assert cookie == server.cookie
    assert set(rules) == {"Path=/", "HttpOnly", "SameSite=Lax"}
    assert ask(server, "/gallery.html", Cookie=f"other=1; {cookie}")[2] == run.gallery.read_bytes()
    for path in ("//evil.example/", "/\\evil.example/"):
        assert ask(server, f"{path}?token={server.token}")[1]["Location"] in ("/evil.example/", "/")


def test_a_page_of_another_site_gets_nothing_even_with_the_cookie(served):
    _, server = served
    own = f"http://127.0.0.1:{server.port}"
    for origin in ("http://evil.example", "null", "http://127.0.0.1:1", own.replace("127.0.0.1", "localhost")):
        assert ask(server, "/gallery.html", Origin=origin)[0] == 403
    for site in ("cross-site", "same-site"):  # the second one: another port of this machine
        assert ask(server, "/run.json", Sec_Fetch_Site=site, Sec_Fetch_Mode="no-cors")[0] == 403
        assert ask(server, "/gallery.html", Sec_Fetch_Site=site, Sec_Fetch_Mode="navigate")[0] == 200
    assert ask(server, "/gallery.html", Origin=own, Sec_Fetch_Site="same-origin", Sec_Fetch_Mode="cors")[0] == 200


def test_every_answer_has_a_policy(served, run, tmp_path):
    _, server = served
    image = f"/image/{image_id(str(tmp_path / 'images' / 'pool_000.png'))}"
    for path in (image, "/run.json", "/mining_summary.txt", "/nothing"):
        policy = ask(server, path)[1]["Content-Security-Policy"]
        assert policy == "default-src 'none'; style-src 'unsafe-inline'; sandbox; frame-ancestors 'none'"
    policy = ask(server, "/gallery.html")[1]["Content-Security-Policy"]
    scripts = re.findall(r"<script>(.*?)</script>", run.gallery.read_text(encoding="utf-8"), re.DOTALL)
    allowed = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert policy.startswith("default-src 'none'; img-src data: 'self'; ")
    assert "script-src " + " ".join(f"'sha256-{digest}'" for digest in allowed) + ";" in policy
    assert policy.endswith("form-action 'none'; frame-ancestors 'none'")
    assert "unsafe" not in policy
    run.gallery.write_text(
        '<meta http-equiv="Content-Security-Policy" content="script-src *"><script>alert(1)</script>'
    )
    assert "sandbox" in ask(server, "/gallery.html")[1]["Content-Security-Policy"], "a page that is not ours"


def test_it_opens_the_browser(run, start_command, tmp_path):
    write_gallery(run)
    browser = tmp_path / "browser"
    browser.write_text(
        f"#!/bin/sh\necho $1 > {tmp_path / 'opened.part'}; mv {tmp_path / 'opened.part'} {tmp_path / 'opened'}\n"
    )
    browser.chmod(0o755)
    process = start_command(
        "lookalike", "view", run.path, "--port", "0", cwd=tmp_path, env={"BROWSER": f"{browser} %s"}
    )
    address = process.stdout.readline()
    end = time.monotonic() + 60
    while not (tmp_path / "opened").exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert (tmp_path / "opened").read_text() == address


def test_ctrl_c_ends_it_well(served):
    process, server = served
    assert ask(server, "/gallery.html")[0] == 200
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    assert "Stopped. Your decisions stay in the browser." in process.stderr.read()


def test_a_run_has_its_own_port_and_a_gallery_is_made(run, start_command, run_command, tmp_path):
    assert not run.gallery.exists()
    first, second = (start_command("lookalike", "view", run.path, "--no-browser", cwd=tmp_path) for _ in range(2))
    lines = [process.stdout.readline() for process in (first, second)]
    assert run.gallery.exists()
    assert lines[0] != lines[1]
    for process in (first, second):
        process.send_signal(signal.SIGINT)
    errors = "".join(process.communicate(timeout=30)[1] for process in (first, second))
    port = re.search(r"port (\d+) is taken", errors)[1]
    assert any(f":{port}/" in line for line in lines)
    third = start_command("lookalike", "view", run.path, "--no-browser", cwd=tmp_path)
    assert f":{port}/" in third.stdout.readline(), "the same port again: the browser finds the decisions"
    done = run_command("lookalike", "view", run.path, "--no-browser", "--port", port, cwd=tmp_path)
    assert done.returncode == 1
    assert f"port {port} cannot be used" in done.stderr


def test_what_is_no_run_is_refused(run_command, tmp_path):
    for arguments in (("view", tmp_path, "--no-browser"), ("gallery", tmp_path / "none")):
        done = run_command("lookalike", *arguments, cwd=tmp_path)
        assert done.returncode == 1
        assert "run that `lookalike mine` finished" in done.stderr
        assert "Traceback" not in done.stderr
