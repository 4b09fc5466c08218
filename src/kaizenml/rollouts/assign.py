"""Which arm answers a unit. Hot path: one hash and a look at the challengers' slots, no allocation that grows with traffic."""

from __future__ import annotations

from zlib import crc32

from kaizenml.rollouts.snapshot import EndpointRoute


def slot(endpoint: str, unit: str) -> int:
    """Return the slot, 0..999, of a unit at an endpoint: the same in every process and for ever.

    CRC-32 is linear: near-equal units, and the same units at two endpoints, would fall into related
    slots. The odd multiplier (2**32 over the golden ratio) breaks that for 30 ns; BLAKE2 would cost 400.
    """
    return ((crc32(f"{endpoint}\0{unit}".encode()) * 0x9E3779B1 & 0xFFFFFFFF) * 1000) >> 32


def choose(route: EndpointRoute, unit: str) -> int:
    """Return the index in ``route.arms`` of the arm that answers ``unit``: its challenger's, else 0, the champion.

    Sticky: a unit keeps its arm until that arm leaves or its own slot changes hands (see ``slots``).
    A route whose challengers name no slots shares the circle out by weight, from slot 0.

    Parameters
    ----------
    route : how the endpoint answers now; champion first.
    unit : whatever the caller wants treated alike (a customer, a session); never empty.
    """
    arms = route.arms
    if len(arms) == 1:
        return 0
    point = ((crc32(f"{route.endpoint}\0{unit}".encode()) * 0x9E3779B1 & 0xFFFFFFFF) * 1000) >> 32
    end = 0
    for index in range(1, len(arms)):
        arm = arms[index]
        if arm.slots:
            for low, high in arm.slots:
                if low <= point < high:
                    return index
        else:
            end += arm.weight
            if end - arm.weight <= point < end:
                return index
    return 0
