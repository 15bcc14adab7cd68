"""The values that go in and out of the hosted lane."""

import pytest

from klein9b.remote.errors import NOTHING_SENT, BadInput, MissingKey
from klein9b.remote.keys import HOST_VARIABLES, KEY_FILE, KEY_VARIABLE, Hosts, Key
from klein9b.remote.values import Account, Terms

SECRET = "SG_" + "0123456789abcdef"


@pytest.fixture
def nothing_set(monkeypatch):
    for name in (KEY_VARIABLE, *HOST_VARIABLES.values()):
        monkeypatch.delenv(name, raising=False)


def test_an_account_is_its_folder_its_key_and_its_hosts(tmp_path, monkeypatch, nothing_set):
    monkeypatch.setenv("SEGMIND_BASE_URL", "https://proxy.example.com/")
    (tmp_path / KEY_FILE).touch(mode=0o600)
    (tmp_path / KEY_FILE).write_text(SECRET)
    account = Account.of(tmp_path)
    assert account == Account(tmp_path, Key(SECRET), Hosts(api="https://proxy.example.com"))
    assert SECRET not in repr(account)


def test_an_account_needs_a_key(tmp_path, nothing_set):
    with pytest.raises(MissingKey):
        Account.of(tmp_path)


@pytest.mark.parametrize(
    "terms",
    [
        {"timeout_s": 0.5},
        {"timeout_s": 3301},
        {"max_cost_usd": -0.01},
        {"max_cost_usd": float("inf")},
        {"reuse": "never"},
        {"on_item_error": "ignore"},
    ],
    ids=str,
)
def test_terms_that_cannot_be_kept_are_refused(terms):
    with pytest.raises(BadInput, match="terms are not possible") as said:
        Terms(**terms)
    assert said.value.money == NOTHING_SENT


def test_every_run_has_a_budget_of_its_own_and_no_cap_unless_it_is_asked_for():
    assert Terms().budget != Terms().budget
    assert Terms().cap_usd is None and Terms(max_cost_usd=0.05).cap_usd == 0.05
    assert Terms(reuse="always_new").always_new and not Terms().always_new
