"""What a server refuses, and what it does with clients that misbehave."""

from __future__ import annotations

import concurrent.futures
import json
import logging
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from server_tools import LONG_TEXT, PATIENCE, Running, running, speech_request, tone, until

from uniaudio_engine import Engine, InputError
from uniaudio_engine.serving.settings import Settings, is_loopback, read_api_keys

KEY, OTHER = "k" * 24, "o" * 24
SAY = {"model": "tiny", "voice": "one", "input": "Hello.", "seed": 1}
SMALL = 4096  # bytes of a client's receive buffer


# Settings


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.0.1", "localhost", "::1", "[::1]"])
def test_loopback_needs_no_key(host: str) -> None:
    assert is_loopback(host) and Settings(host=host).api_keys == ()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.com", "", "127.1"])
def test_any_other_address_needs_a_key(host: str) -> None:
    with pytest.raises(InputError, match="expected an API key"):
        Settings(host=host)
    assert Settings(host=host, api_keys=(KEY,)).host == host


@pytest.mark.parametrize(
    "wrong",
    [
        {"port": 70000},
        {"api_keys": ("short",)},
        {"api_keys": ("with spaces in it, long",)},
        {"max_sessions": 0},
        {"max_queue": -1},
        {"stall_seconds": 0},
        {"cors_origins": ("*",)},
    ],
)
def test_settings_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="expected"):
        Settings(**wrong)


def test_keys_come_from_a_file_and_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNIAUDIO_API_KEY", OTHER)
    (tmp_path / "keys").write_text(f"# ours\n{KEY}\n\n")
    assert read_api_keys([], tmp_path / "keys") == (KEY, OTHER)
    (tmp_path / "none").write_text("# nothing\n")
    for name in ("none", "absent"):
        with pytest.raises(InputError, match="expected"):
            read_api_keys([], tmp_path / name)
    assert KEY not in repr(Settings(api_keys=(KEY,)))


# Keys, hosts and origins


def test_everything_but_health_needs_the_key(engine: Engine) -> None:
    with running(engine, api_keys=(KEY, OTHER)) as server, server.client() as http:
        schema = http.get("/openapi.json").json()
        assert http.get("/health").status_code == 200
        for path, methods in schema["paths"].items():
            for method in methods:
                for headers in (
                    {},
                    {"Authorization": "Bearer wrong"},
                    {"Authorization": f"Basic {KEY}"},
                    {"Authorization": f"Bearer {KEY}x"},
                    {"Authorization": "Bearer ä".encode("latin-1")},
                ):
                    url = path.replace("{", "").replace("}", "")
                    status = http.request(method, url, headers=headers).status_code
                    assert status == (200 if path == "/health" else 401), (path, headers)
        for key in (KEY, OTHER):
            answer = http.post(
                "/v1/audio/speech", json=SAY, headers={"Authorization": f"Bearer {key}"}
            )
            assert answer.status_code == 200


def test_voices_of_one_key_are_not_anothers(engine: Engine, tmp_path: Path) -> None:
    tone(1.0, 440.0).save(tmp_path / "a.wav")
    sample = (tmp_path / "a.wav").read_bytes()
    first, second = ({"Authorization": f"Bearer {k}"} for k in (KEY, OTHER))
    folder = tmp_path / "voices"
    settings = {"api_keys": (KEY, OTHER), "voices": folder, "max_voices": 1}

    def names(http: Any, headers: dict[str, str]) -> set[str]:
        listed = http.get("/v1/audio/voices", headers=headers).json()["data"]
        return {v["id"] for v in listed if v["uploaded"]}

    def upload(http: Any, name: str) -> int:
        return int(
            http.post(
                "/v1/audio/voices",
                data={"name": name, "consent": "yes"},
                files={"audio_sample": sample},
                headers=first,
            ).status_code
        )

    with running(engine, **settings) as server, server.client() as http:
        assert upload(http, "mine") == 201 and upload(http, "another") == 429
        assert names(http, first) == {"mine"} and names(http, second) == set()
        said = [
            http.post("/v1/audio/speech", json=SAY | {"voice": "mine"}, headers=h).status_code
            for h in (first, second)
        ]
        assert said == [200, 400]
        assert http.delete("/v1/audio/voices/mine", headers=second).status_code == 404
    assert all("mine" not in str(p) for p in folder.rglob("*"))
    with running(engine, **settings) as server, server.client() as http:  # kept
        assert names(http, first) == {"mine"} and names(http, second) == set()
        assert http.delete("/v1/audio/voices/mine", headers=first).status_code == 200
    assert not list(folder.rglob("*.safetensors"))


def test_pages_of_other_origins_are_refused(server: Running) -> None:
    own = f"http://127.0.0.1:{server.port}"
    with server.client() as http:
        for origin, status in ((own, 200), ("https://evil.example", 403), ("null", 403)):
            response = http.post("/v1/audio/speech", json=SAY, headers={"Origin": origin})
            assert response.status_code == status
            assert "access-control-allow-origin" not in response.headers
        for host, status in (("localhost", 200), ("[::1]:80", 200), ("evil.example", 403)):
            assert http.get("/v1/models", headers={"Host": host}).status_code == status


def test_allowed_origins_get_cors(engine: Engine) -> None:
    with running(engine, cors_origins=("https://app.example",)) as server, server.client() as http:
        for origin, allowed in (("https://app.example", True), ("https://evil.example", False)):
            ask = {
                "Origin": origin,
                "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": "authorization,content-type",
            }
            preflight = http.options("/v1/audio/speech", headers=ask)
            response = http.post("/v1/audio/speech", json=SAY, headers={"Origin": origin})
            assert preflight.is_success == response.is_success == allowed
            assert ("access-control-allow-origin" in response.headers) == allowed


# Limits


def test_a_body_is_bounded(engine: Engine) -> None:
    with running(engine, max_body=10_000) as server, server.client() as http:
        large = json.dumps(SAY | {"input": "x" * 20_000}).encode()
        kind = {"Content-Type": "application/json"}
        stated = http.post("/v1/audio/speech", content=large, headers=kind)
        parts = [large[i : i + 1000] for i in range(0, len(large), 1000)]
        unstated = http.post("/v1/audio/speech", content=iter(parts), headers=kind)
        form = http.post("/v1/tasks/se", files={"source": large})
        for response in (stated, unstated, form):
            assert response.status_code == 413
            assert "at most 10000 bytes" in response.json()["error"]["message"]
        assert http.post("/v1/audio/speech", json=SAY).status_code == 200


def test_all_bodies_together_are_bounded(engine: Engine) -> None:
    with running(engine, max_body=10_000, max_sessions=1) as server, server.client() as http:
        half = speech_request("x" * 9000)[:-10]
        first = server.socket()
        first.sendall(half)
        until(lambda: server.metric("body_bytes") > 8000)
        refused = http.post("/v1/audio/speech", json=SAY | {"input": "x" * 5000})
        assert refused.status_code == 503 and int(refused.headers["Retry-After"]) >= 1
        first.close()
        until(lambda: server.metric("body_bytes") == 0)
        assert http.post("/v1/audio/speech", json=SAY).status_code == 200


def test_a_full_server_says_when_to_come_again(engine: Engine) -> None:
    with running(engine, max_sessions=1, max_queue=1, stall_seconds=PATIENCE) as server:
        slow = stopped_reader(server)
        until(lambda: server.metric("sessions_active") == 1)
        with concurrent.futures.ThreadPoolExecutor(1) as pool, server.client() as http:
            waiting = pool.submit(http.post, "/v1/audio/speech", json=SAY)
            until(lambda: server.metric("sessions_waiting") == 1)
            with server.client() as other:
                refused = other.post("/v1/audio/speech", json=SAY)
                assert other.get("/health").status_code == 200
            assert refused.status_code == 429 and int(refused.headers["Retry-After"]) >= 1
            assert refused.json()["error"]["type"] == "rate_limit_error"
            slow.close()
            assert waiting.result(PATIENCE).status_code == 200


def test_a_client_that_leaves_the_queue_frees_its_place(engine: Engine) -> None:
    with running(engine, max_sessions=1, max_queue=1, stall_seconds=PATIENCE) as server:
        slow = stopped_reader(server)
        until(lambda: server.metric("sessions_active") == 1)
        queued = server.socket()
        queued.sendall(speech_request("Hello."))
        until(lambda: server.metric("sessions_waiting") == 1)
        queued.close()
        until(lambda: server.metric("sessions_waiting") == 0)
        slow.close()


def test_connections_are_bounded(engine: Engine) -> None:
    with running(engine, max_connections=3) as server:
        sockets = [server.socket() for _ in range(3)]
        until(lambda: len(server.server.server_state.connections) == 3)
        extra = server.socket()
        with pytest.raises(OSError):
            extra.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert extra.recv(100) == b""
            raise ConnectionError
        for s in (*sockets, extra):
            s.close()


# Clients that are slow, or gone


def stopped_reader(server: Running, **more: Any) -> socket.socket:
    """A client that asks for much, and takes nothing."""
    s = server.socket(receive_buffer=SMALL)
    s.sendall(speech_request(LONG_TEXT, **more))
    return s


def test_a_client_that_stops_reading_is_cut(engine: Engine) -> None:
    """The default of two seconds; less waits in its buffer than is made."""
    with running(engine, send_buffer=64 << 10) as server:
        s = stopped_reader(server)
        until(lambda: server.metric("sessions_active") == 1)
        until(server.idle)
        assert server.metric("clients_cut_total") >= 1
        assert server.metric("sessions_total") == 1
        until(lambda: not server.server.server_state.connections)
        s.close()


def test_a_client_that_reads_slowly_is_not_cut(engine: Engine) -> None:
    with running(engine, send_buffer=16 << 10, stall_seconds=1.0) as server:
        s = server.socket(receive_buffer=SMALL)
        s.sendall(speech_request("Hello there. " * 20, seed=1))
        data, least = b"", 300_000
        while len(data) < least:
            got = s.recv(20_000)
            assert got, "cut"
            data += got
            time.sleep(0.02)
        assert server.metric("clients_cut_total") == 0
        s.close()


@pytest.mark.parametrize("stream_format", ["audio", "sse"])
def test_a_client_that_leaves_frees_its_session(engine: Engine, stream_format: str) -> None:
    with running(engine, send_buffer=64 << 10, stall_seconds=PATIENCE) as server:
        for wait in (True, False):
            s = stopped_reader(server, stream_format=stream_format)
            if wait:
                until(lambda: server.metric("sessions_active") == 1)
            s.close()
            until(server.idle)
        assert server.metric("sessions_total") >= 1


def test_an_upload_that_stops_is_given_up(engine: Engine) -> None:
    with running(engine, idle_seconds=0.3) as server:
        s = server.socket()
        s.sendall(speech_request("Hello.")[:-5])
        assert s.recv(1000).startswith(b"HTTP/1.1 408")
        s.close()
        silent = server.socket()
        assert silent.recv(100) == b""  # nothing was ever asked for
        silent.close()
        slow = server.socket()
        with pytest.raises(OSError):  # a head that never ends
            for _ in range(1000):
                slow.sendall(b"G")
                time.sleep(0.02)
        slow.close()


# Logs


def test_logs_have_no_texts_and_no_keys(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    secret = "zebra"
    with running(engine, api_keys=(KEY,)) as server, server.client() as http:
        headers = {"Authorization": f"Bearer {KEY}"}
        for body in (SAY | {"input": secret}, SAY | {"voice": secret}, {"model": secret}):
            http.post(f"/v1/audio/speech?{secret}={KEY}", json=body, headers=headers)
        http.get(f"/{secret}", headers=headers)
        http.post("/v1/tasks/tts", files={secret: (secret, b"x")}, headers=headers)
    ours = [r for r in caplog.records if r.name.startswith(("uniaudio", "uvicorn"))]
    requests = [r.fields for r in ours if r.getMessage() == "request"]  # type: ignore[attr-defined]
    assert [r["status"] for r in requests] == [200, 400, 400, 404, 400]
    assert requests[0]["task"] == "tts" and requests[0]["audio_seconds"] > 0
    assert not any(word in str(vars(r)) for r in ours for word in (secret, KEY))


def test_metrics(server: Running) -> None:
    with server.client() as http:
        http.post("/v1/audio/speech", json=SAY)
        http.get("/nowhere")
        text = http.get("/metrics").text
    for line in (
        "uniaudio_sessions_active 0.0",
        'uniaudio_requests_total{route="/v1/audio/speech",status="200"}',
        'uniaudio_requests_total{route="unknown",status="404"}',
        'uniaudio_sessions_total{end="done",task="tts"}',
        "uniaudio_first_audio_seconds_count",
    ):
        assert line in text
    assert "nowhere" not in text


def test_pages_load_nothing_from_elsewhere(server: Running) -> None:
    with server.client() as http:
        page = http.get("/docs").text
        assert "/v1/audio/speech" in page and "http" not in page.replace("HTTP", "")
        assert "<script" not in page and "src=" not in page
        assert http.get("/openapi.json").json()["openapi"].startswith("3.")
        assert http.get("/redoc").status_code == 404
