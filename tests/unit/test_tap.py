"""What --tunnet takes, and what it says to the rest: before anything is opened."""

from __future__ import annotations

import pytest

from launcher.config import RunConfig
from launcher.devices.net import make_mac
from launcher.devices.tap import Tap, parse
from shared.errors import UsageError
from tests.support.fds import no_new_fds
from tests.support.network import addresses, interfaces, own_network
from tests.support.sessions import run_launcher


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.168.19.1", "192.168.19.1/24"),
        ("192.168.19.1/30", "192.168.19.1/30"),
        ("10.0.0.0/31", "10.0.0.0/31"),
        ("10.1.2.3/8", "10.1.2.3/8"),
        ("126.1.2.3/1", "126.1.2.3/1"),
    ],
)
def test_an_address_is_taken_with_its_length_or_that_of_a_24(text: str, address: str) -> None:
    assert str(parse(text).address) == address
    assert parse(text).bridge is None


def test_a_bridge_is_taken_by_its_name() -> None:
    assert parse("bridge:br-lan.7") == ("bridge:br-lan.7", None, "br-lan.7")


NO_ADDRESS = "is no IPv4 address; give ADDR, ADDR/LEN or bridge:NAME"
NO_LENGTH = "is no prefix length with room for a Guest; give /1 to /31"
NO_HOST = "give the host an address of its own"
WRONG = {
    "": f"'' {NO_ADDRESS}",
    "/24": f"'' {NO_ADDRESS}",
    "tap0": f"'tap0' {NO_ADDRESS}",
    "192.168.19": f"'192.168.19' {NO_ADDRESS}",
    "192.168.19.256": f"'192.168.19.256' {NO_ADDRESS}",
    "192.168.19.01": f"'192.168.19.01' {NO_ADDRESS}",
    "fe80::1": f"'fe80::1' {NO_ADDRESS}",
    "fe80::1/64": f"'fe80::1' {NO_ADDRESS}",
    "192.168.19.1/": f"'' {NO_LENGTH}",
    "192.168.19.1/33": f"'33' {NO_LENGTH}",
    "192.168.19.1/32": f"'32' {NO_LENGTH}",
    "192.168.19.1/0": f"'0' {NO_LENGTH}",
    "192.168.19.1/-1": f"'-1' {NO_LENGTH}",
    "192.168.19.1/024": f"'024' {NO_LENGTH}",
    "192.168.19.1/255.255.255.0": f"'255.255.255.0' {NO_LENGTH}",
    "192.168.19.1/²": f"'²' {NO_LENGTH}",
    "192.168.19.0/24": f"192.168.19.0 stands for all of 192.168.19.0/24; {NO_HOST}",
    "192.168.19.255": f"192.168.19.255 stands for all of 192.168.19.0/24; {NO_HOST}",
    "224.0.0.1": f"224.0.0.1 is a multicast address; {NO_HOST}",
    "127.0.0.1/8": f"127.0.0.1 belongs to no host on a network; {NO_HOST}",
    "0.0.0.0": f"0.0.0.0 belongs to no host on a network; {NO_HOST}",
    "255.255.255.255": f"255.255.255.255 belongs to no host on a network; {NO_HOST}",
    "bridge:": "'' cannot be the name of a bridge; give bridge:NAME",
    "bridge:a/b": "'a/b' cannot be the name of a bridge; give bridge:NAME",
    "bridge:..": "'..' cannot be the name of a bridge; give bridge:NAME",
    "bridge:a b": "'a b' cannot be the name of a bridge; give bridge:NAME",
    "bridge:sixteen-letters-": "'sixteen-letters-' cannot be the name of a bridge; give bridge:NAME",
}


@pytest.mark.parametrize("text", WRONG)
def test_what_is_neither_is_one_sentence(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        RunConfig(tunnet=("192.168.77.1", text))
    assert str(caught.value) == f"--tunnet '{text}': {WRONG[text]}"


def test_it_is_said_before_anything_is_opened() -> None:
    done = run_launcher("run", "--tunnet", "192.168.19.1/40", "no-such-image")
    assert (done.returncode, done.stderr.decode()) == (1, f"launcher: --tunnet '192.168.19.1/40': '40' {NO_LENGTH}\n")


def test_an_interface_is_there_until_it_is_closed() -> None:
    with own_network(), no_new_fds():
        tap = Tap(parse("192.168.77.1/29"))
        assert interfaces() == {tap.name}
        assert addresses(tap.name) == {"192.168.77.1/29"}
        assert make_mac(tap) == bytes.fromhex("0200c0a84d01")
        tap.close()
        tap.close()
        assert interfaces() == set()


def test_the_same_address_twice_is_two_interfaces_with_it_as_the_kernel_allows() -> None:
    with own_network(), no_new_fds():
        taps = [Tap(parse("192.168.77.1")) for _ in range(2)]
        assert interfaces() == {"lguest0", "lguest1"}
        for tap in taps:
            tap.close()


def test_a_bridge_that_is_not_there_leaves_no_interface_and_no_fd() -> None:
    with own_network(), no_new_fds():
        with pytest.raises(UsageError, match=r"^--tunnet 'bridge:br9': there is no bridge 'br9'; make it first"):
            Tap(parse("bridge:br9"))
        assert interfaces() == set()
