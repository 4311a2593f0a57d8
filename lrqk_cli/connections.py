"""Addresses of this machine, keys of servers, and why a connection failed."""

from __future__ import annotations

import ipaddress


def is_local(host: str | None) -> bool:
    """Whether the name or number of a host is of this machine."""
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return host == "localhost"


def is_key(text: str) -> bool:
    """Whether a text can be a key: it is sent in a header, with a blank before it."""
    return text.isascii() and text.isprintable() and text.split() == [text]


def connection_failure(error: Exception) -> str:
    """Return why a connection could not be made, in a few words."""
    words = str(error).lower()
    if "refused" in words or "all connection attempts failed" in words:
        return "the connection is refused"
    if "certificate" in words or "ssl" in words:
        return "the certificate or the encryption is not valid"
    if "name" in words or "getaddrinfo" in words or "nodename" in words:
        return "there is no such host"
    return "there is no connection"
