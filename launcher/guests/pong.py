"""Answers ARP, ICMP echo and UDP echo (any port) for the IPv4 address in its first argument, until an EOT (0x04)."""

from __future__ import annotations

from launcher.api import Shutdown
from launcher.engines.python import HALT, Cpu, GuestCode
from launcher.guests.answers import turn_round
from launcher.guests.network import Network
from launcher.guests.words import Ear, Words


def run(cpu: Cpu) -> GuestCode:
    """Answer until EOT."""
    network = Network(cpu, "pong")
    words = Words(cpu, "pong")
    yield from network.start()
    yield from words.start()
    yield from words.say(b"pong: " + network.text + b"\n")
    ear = Ear(words)
    yield from network.receive()
    while True:
        for number, frame in network.arrivals():
            if turn_round(frame, network.mac, network.addr):
                network.send(number, len(frame))
            else:
                network.give_back(number)
        yield from network.go_on()
        yield from ear.go_on()
        if ear.has_heard_eot:
            yield Shutdown()
        if network.may_sleep():
            yield HALT
