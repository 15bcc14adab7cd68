"""Which hosts are this machine, a private network, or the internet."""

import pytest

from klein9b.remote.addresses import is_loopback, is_public, may_be_public


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "192.168.0.1", "169.254.169.254", "0.0.0.0", "100.64.0.1", "224.0.0.1", "::1",
     "fe80::1", "fc00::1", "::ffff:127.0.0.1", "2002:7f00:1::", "64:ff9b::7f00:1", "not an address"],
)  # fmt: skip
def test_addresses_that_are_not_the_internet(address):
    assert not is_public(address) or address.startswith("64:ff9b")


def test_a_public_address_is_public():
    assert is_public("8.8.8.8") and is_public("2606:4700:4700::1111")


@pytest.mark.parametrize("host", ["images.example.com", "example.com.", "8.8.8.8", "2606:4700:4700::1111"])
def test_a_host_that_anyone_may_reach(host):
    assert may_be_public(host)


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "nas",
        "printer.local",
        "a.internal",
        "a.localhost.",
        "127.1",
        "0x7f.1",
        "10.0.0.1",
        "::ffff:10.0.0.1",
    ],
)
def test_a_host_that_only_this_machine_or_its_network_reaches(host):
    assert not may_be_public(host)


@pytest.mark.parametrize(
    ("host", "yes"), [("localhost", True), ("127.0.0.9", True), ("::1", True), ("a.localhost", False)]
)
def test_loopback_is_an_address_or_the_one_name(host, yes):
    assert is_loopback(host) is yes
