import copy
import dataclasses
import logging
import os
import pickle
import runpy
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from klein9b.remote.errors import BadInput, MissingKey
from klein9b.remote.keys import Hosts, Key, load_key, refuse_secrets
from klein9b.remote.redaction import RedactingFilter, looks_like_key, redact

SECRET = "SG_" + "0123456789abcdef"
VARIABLES = ("SEGMIND_API_KEY", "SEGMIND_BASE_URL", "SEGMIND_STORAGE_URL", "SEGMIND_ACCOUNT_URL")
PUBLISHED = Hosts()
posix = pytest.mark.skipif(os.name != "posix", reason="file modes are a POSIX notion")


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def key_file(folder, content, mode=0o600):
    path = folder / "segmind.key"
    path.write_bytes(content)
    path.chmod(mode)
    return path


def secret_of(key):
    return key.header_for("https://api.segmind.com/v2/x", PUBLISHED)["x-api-key"]


# --- where the key comes from


def test_the_environment_wins_over_the_file(tmp_path, monkeypatch):
    key_file(tmp_path, b"SG_fileaaaaaaaaaaaa")
    monkeypatch.setenv("SEGMIND_API_KEY", f"  {SECRET}\n")
    assert secret_of(load_key(tmp_path)) == SECRET


@pytest.mark.parametrize("content", [SECRET.encode(), f" {SECRET}\r\n".encode(), b"\xef\xbb\xbf" + SECRET.encode()])
def test_the_file_serves_when_the_environment_is_empty(tmp_path, monkeypatch, content):
    monkeypatch.setenv("SEGMIND_API_KEY", " ")
    key_file(tmp_path, content)
    assert secret_of(load_key(tmp_path)) == SECRET


def test_without_a_key_the_error_says_where_it_looked_and_how_to_set_one(tmp_path):
    with pytest.raises(MissingKey) as caught:
        load_key(tmp_path)
    for part in ("SEGMIND_API_KEY", str(tmp_path / "segmind.key"), "chmod 600", "nothing was charged"):
        assert part in str(caught.value)


@posix
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o601])
def test_a_file_open_to_others_is_refused_with_the_command_that_closes_it(tmp_path, mode):
    path = key_file(tmp_path, SECRET.encode(), mode)
    with pytest.raises(MissingKey, match="chmod 600") as caught:
        load_key(tmp_path)
    assert str(path) in str(caught.value)


def test_a_key_file_that_is_a_folder_is_a_sentence(tmp_path):
    (tmp_path / "segmind.key").mkdir(mode=0o700)
    with pytest.raises(MissingKey, match="cannot be read"):
        load_key(tmp_path)


ODD = ["SG_" + "01234567 89abcdef", '"SG_' + '0123456789abcdef"', "SG_" + "0123456789abcd\u00e9f", "SG_1", "a=b=c=d=e"]


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("place", ["environment", "file"])
def test_an_odd_key_is_refused_without_being_echoed(tmp_path, monkeypatch, odd, place):
    if place == "environment":
        monkeypatch.setenv("SEGMIND_API_KEY", odd)
    else:
        key_file(tmp_path, odd.encode())
    with pytest.raises(MissingKey) as caught:
        load_key(tmp_path)
    assert odd not in str(caught.value)
    assert not any(word in str(caught.value) for word in odd.split())
    assert ("SEGMIND_API_KEY" if place == "environment" else "segmind.key") in str(caught.value)


def test_a_file_in_another_encoding_is_refused(tmp_path):
    key_file(tmp_path, SECRET.encode("utf-16"))
    with pytest.raises(MissingKey, match="does not hold an API key"):
        load_key(tmp_path)


# --- the key stays unseen


def test_no_way_of_printing_a_key_shows_it():
    @dataclasses.dataclass
    class Holder:
        key: Key

    key = Key(SECRET)
    shown = [repr(key), str(key), f"{key}", repr([key])]
    shown += [str(dataclasses.asdict(Holder(key)))]
    assert all("SG_" not in text and "cdef" not in text for text in shown)
    assert repr(key) == "Key(set)"


def test_a_key_is_copied_as_itself_never_pickled_and_does_not_change():
    key = Key(SECRET)
    assert copy.copy(key) is key
    assert copy.deepcopy(key) is key
    with pytest.raises(TypeError):
        pickle.dumps(key)
    with pytest.raises(AttributeError):
        key._secret = "other"


def test_a_key_in_use_is_redacted_whatever_its_shape():
    assert redact("token live-key.0001!") == "token live-key.0001!"
    Key("live-key.0001")
    assert redact("token live-key.0001!") == "token [key removed]!"
    assert looks_like_key("live-key.0001")


@settings(deadline=None, max_examples=200)
@given(st.text(), st.from_regex(r"SG_[0-9A-Za-z]{8,40}", fullmatch=True), st.text())
def test_redaction_leaves_no_key(before, secret, after):
    assert secret not in redact(before + secret + after)


def test_redaction_leaves_other_text_alone():
    for text in ("SG_short", "an SG lens", "sg_0123456789abcdef", ""):
        assert redact(text) == text


def test_the_log_filter_covers_message_arguments_traceback_and_stack(tmp_path):
    lines = []
    handler = logging.Handler()
    handler.setFormatter(logging.Formatter())
    handler.emit = lambda record: lines.append(handler.format(record))
    handler.addFilter(RedactingFilter())
    log = logging.Logger("quiet")
    log.addHandler(handler)
    try:
        raise ValueError(f"header {SECRET}")
    except ValueError:
        log.exception("failed with %s", SECRET, stack_info=True)
    log.warning("malformed %d", SECRET)
    careless = tmp_path / "careless.py"
    careless.write_text(f'log.warning("a stack shows source lines", stack_info=True)  # {SECRET}')
    runpy.run_path(str(careless), {"log": log})
    assert len(lines) == 3
    assert "source lines" in lines[2] and "[key removed]" in lines[2]
    assert SECRET not in "".join(lines)
    assert "ValueError: header [key removed]" in lines[0]
    assert "failed with [key removed]" in lines[0]


# --- the secret firewall


def test_a_key_in_an_input_stops_the_run_and_names_the_input():
    with pytest.raises(BadInput) as caught:
        refuse_secrets({"prompt": "a fox", "negative_prompt": f"blurry, x-api-key={SECRET}"})
    assert "negative_prompt" in str(caught.value)
    assert "PNG" in str(caught.value)
    assert SECRET not in str(caught.value)


def test_ordinary_inputs_pass():
    refuse_secrets({"prompt": "a fox, SG mount lens, MSG_OK", "image_urls": "https://example.com/SG_1.png"})


# --- where the key may go


def test_the_three_hosts_get_the_key():
    for url in (PUBLISHED.api, PUBLISHED.storage, PUBLISHED.account):
        for spelled in (url, f"{url}/v2/x?y=1", f"{url}:443/", url.upper(), httpx.URL(url)):
            assert Key(SECRET).header_for(spelled, PUBLISHED) == {"x-api-key": SECRET}


ELSEWHERE = [
    "http://api.segmind.com/v2/x",
    "http://api.segmind.com:443/v2/x",
    "https://api.segmind.com:8443/v2/x",
    "https://api.segmind.com.evil.net/",
    "https://evil.net/api.segmind.com",
    "https://api.segmind.com@evil.net/",
    "https://me:pw@api.segmind.com/",
    "https://api.segmind.com\\@evil.net/",
    "https://api.segmind.com./",
    "https://images.segmind.com/generations/x.png",
    "//api.segmind.com/v2",
    "ftp://api.segmind.com/",
    "/v2/requests/1",
    "",
]


@pytest.mark.parametrize("url", ELSEWHERE)
def test_nobody_else_gets_the_key(url):
    with pytest.raises(BadInput) as caught:
        Key(SECRET).header_for(url, PUBLISHED)
    assert SECRET not in str(caught.value)


@settings(deadline=None, max_examples=300)
@given(st.text(max_size=40))
def test_no_url_reaches_another_host_with_the_key(tail):
    """The header is given for exactly the address that httpx would connect to."""
    try:
        url = httpx.URL("https://api.segmind.com" + tail)
        header = Key(SECRET).header_for(url, PUBLISHED)
    except (BadInput, httpx.InvalidURL):
        return
    request = httpx.Request("GET", url, headers=header)
    assert (request.url.scheme, request.url.host, request.url.port) == ("https", "api.segmind.com", None)
    assert "authorization" not in request.headers


def test_hosts_follow_the_environment(monkeypatch):
    assert Hosts.from_environment() == PUBLISHED
    monkeypatch.setenv("SEGMIND_BASE_URL", "http://127.0.0.1:8123/")
    monkeypatch.setenv("SEGMIND_ACCOUNT_URL", "https://account.example/inner/")
    hosts = Hosts.from_environment()
    assert hosts == Hosts(api="http://127.0.0.1:8123", account="https://account.example/inner")
    assert Key(SECRET).header_for("http://127.0.0.1:8123/v2/x", hosts)
    assert Key(SECRET).header_for(hosts.storage, hosts)
    with pytest.raises(BadInput):
        Key(SECRET).header_for(PUBLISHED.api, hosts)
    with pytest.raises(BadInput):
        Key(SECRET).header_for("http://127.0.0.1:9/", hosts)


@pytest.mark.parametrize(
    "url", ["http://localhost:1", "http://127.9.9.9", "http://[::1]:8000", "https://proxy.example:9/s"]
)
def test_https_anywhere_and_http_on_loopback(url):
    assert Hosts(api=url).api == url


BASES = [
    "http://example.com",
    "http://10.0.0.1",
    "http://0.0.0.0",
    "http://localhost.evil.net",
    "http://2130706433",
]
BASES += [
    "https://me@h.example",
    "https://h.example?",
    "https://h.example#",
    "https://h.example/?q=1",
    "h.example",
]
BASES += [
    "https://",
    "ftp://h.example",
    "https://h .example",
    "https://h.example\n",
    "http://[::2]",
    "https://a:b:c",
]


@pytest.mark.parametrize("url", BASES)
def test_other_bases_are_refused_by_name(url):
    with pytest.raises(BadInput, match="SEGMIND_STORAGE_URL"):
        Hosts(storage=url)


def test_nothing_is_read_at_import():
    """A bad environment must not stop the host from loading the pack."""
    root = Path(__file__).resolve().parents[2]
    code = (
        "import sys, types\n"
        "pack = sys.modules['klein9b'] = types.ModuleType('klein9b')\n"
        f"pack.__path__ = [{str(root)!r}]\n"
        "from klein9b.remote import keys\n"
        "from klein9b.remote.redaction import _live\n"
        "assert not _live\n"
        "assert not {'torch', 'comfy'} & set(sys.modules)\n"
    )
    environment = {**os.environ, "SEGMIND_API_KEY": "bad key", "SEGMIND_BASE_URL": "nonsense"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=60)
