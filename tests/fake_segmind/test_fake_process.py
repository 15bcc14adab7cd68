"""The fake as its own process, driven over its control routes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from .settings import SLUG

TESTS = Path(__file__).resolve().parent.parent
START_SECONDS = 60.0


@pytest.fixture
def urls(tmp_path: Path) -> Iterator[dict[str, str]]:
    port_file = tmp_path / "fake.json"
    command = [sys.executable, "-m", "fake_segmind", "--port-file", str(port_file), "--pixels", "65536"]
    process = subprocess.Popen(command, cwd=TESTS, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        yield _wait_for(port_file, process)
    finally:
        process.send_signal(signal.SIGTERM)
        printed, _ = process.communicate(timeout=START_SECONDS)
    assert (process.returncode, printed) == (0, b""), "it prints nothing and leaves quietly"


def _wait_for(path: Path, process: subprocess.Popen[bytes]) -> dict[str, str]:
    until = time.monotonic() + START_SECONDS
    while not path.exists():
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.05)
    described: dict[str, str] = json.loads(path.read_text())
    return described


def test_another_process_can_read_and_drive_it(urls: dict[str, str], tmp_path: Path) -> None:
    assert set(urls) == {"key", "api_url", "storage_url", "account_url", "image_url", "evil_url"}
    assert len(set(urls.values())) == 6
    with httpx.Client(base_url=urls["api_url"], headers={"x-api-key": urls["key"]}, timeout=20) as http:
        _faults_and_clock(http)
        _settings_and_errors(http)
    assert (tmp_path / "fake.json").stat().st_mode & 0o077 == 0, "the key is not for other users"


def _faults_and_clock(http: httpx.Client) -> None:
    http.post("/__faults", json={"route": "submit", "faults": [{"fault": "reset_at", "args": {"k": 10}}]})
    http.post("/__behaviour", json={"next": [{"run_seconds": 1000, "shape": "list"}]})
    with pytest.raises(httpx.TransportError):
        http.post(f"/v2/{SLUG}", json={"prompt": "a cup"})
    ledger = _ledger(http)
    assert [job["state"] for job in ledger["jobs"]] == ["PROCESSING"] and ledger["charges"] == []
    http.post("/__clock", json={"advance": 1001})
    ledger = _ledger(http)
    assert ledger["charges_by_body"] == {'{"prompt":"a cup"}': 1} and ledger["submits"] == 1
    assert [(request["fault"], request["has_key"]) for request in ledger["requests"]] == [("reset_at", True)]


def _settings_and_errors(http: httpx.Client) -> None:
    assert http.post("/__settings", json={"history_lag_seconds": 5}).status_code == 200
    bad: list[tuple[str, Any]] = [
        ("/__settings", {"nonsense": 1}),
        ("/__faults", {"route": "submit", "faults": [{"fault": "from_json"}]}),
        ("/__faults", {"route": "nowhere", "faults": [{"fault": "none"}]}),
        ("/__clock", {}),
    ]
    assert [http.post(path, json=value).status_code for path, value in bad] == [400] * 4
    assert http.get("/__nothing").status_code == 404


def _ledger(http: httpx.Client) -> dict[str, Any]:
    value: dict[str, Any] = http.get("/__ledger", headers={"x-api-key": ""}).json()
    return value
