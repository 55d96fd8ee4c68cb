"""Where Ollama is, and which addresses are never called.

A caller may name the host, so the address is looked at before anything is sent:
plain HTTP or HTTPS, no credentials inside, and never a link-local or cloud
metadata address. A host name is resolved once for that check and again when the
connection is made, so this keeps mistakes and planted text from reaching such
services; it is not a security boundary against whoever controls the name server.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from urllib.parse import SplitResult, urlsplit

from tunesmith.errors import InvalidArgument

DEFAULT_HOST = "http://127.0.0.1:11434"
_DEFAULT_PORTS = {"http": 80, "https": 443}
# Answered by cloud providers with a machine's credentials, and not in the link-local ranges.
_METADATA_ADDRESSES = frozenset({"100.100.100.200", "fd00:ec2::254", "192.0.0.192", "168.63.129.16"})
_METADATA_NAMES = frozenset({"metadata", "metadata.google.internal", "metadata.goog", "instance-data"})
_ADVICE = "Give an address such as http://127.0.0.1:11434, or leave the host out to use OLLAMA_HOST."

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def ollama_url(host: str | None = None) -> str:
    """The base URL of Ollama: `host`, else the OLLAMA_HOST variable, else port 11434 of this machine.

    Written as Ollama itself reads it: the scheme and the port may be left out
    (`192.168.1.20`, `gpu-box:8080`), and `0.0.0.0`, on which a server listens,
    becomes the loopback address.

    Raises:
        InvalidArgument: not an HTTP address, or one that is never called.
    """
    text = host if host is not None else os.environ.get("OLLAMA_HOST", "")
    text = text.strip()
    if not text:
        if host is not None:
            raise InvalidArgument("The Ollama host is empty.", next=_ADVICE)
        return DEFAULT_HOST
    parts = _split(text)
    name = (parts.hostname or "").rstrip(".")
    if not name:
        raise InvalidArgument(f"{text[:80]!r} names no host.", next=_ADVICE)
    address = literal_address(name)
    if address is not None and address.is_unspecified:
        address = ipaddress.ip_address("127.0.0.1" if address.version == 4 else "::1")
    if name in _METADATA_NAMES or (address is not None and _is_refused(address)):
        raise _refused(text)
    shown = f"[{address}]" if address is not None and address.version == 6 else str(address or name)
    return f"{parts.scheme}://{shown}:{_port(parts, text)}{parts.path.rstrip('/')}"


def refuse_hidden_address(url: str) -> None:
    """Resolve the host of `url` and refuse it if any address behind it is never called.

    A name that cannot be resolved passes: the request itself will say so.

    Raises:
        InvalidArgument: the name leads to a link-local or metadata address.
    """
    parts = urlsplit(url)
    if not parts.hostname or literal_address(parts.hostname) is not None:
        return
    try:
        found = socket.getaddrinfo(parts.hostname, parts.port, type=socket.SOCK_STREAM)
    except OSError:
        return
    for *_, target in found:
        if _is_refused(ipaddress.ip_address(str(target[0]).partition("%")[0])):
            raise _refused(url)


def literal_address(name: str) -> Address | None:
    """The IP address that `name` spells, also in its old forms (`2130706433`, `127.1`); None for a name."""
    try:
        return ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        pass
    # The C library still takes these, so they must not slip past the check as "names".
    if not re.fullmatch(r"(0x[0-9a-f]*|[0-9]+)(\.(0x[0-9a-f]*|[0-9]+)){0,3}", name, re.IGNORECASE):
        return None
    try:
        return ipaddress.ip_address(socket.inet_aton(name))
    except OSError:
        return None


def is_loopback(url: str) -> bool:
    """Whether `url` leads to this machine by its spelling alone."""
    name = urlsplit(url).hostname or ""
    address = literal_address(name)
    return name == "localhost" or name.endswith(".localhost") or (address is not None and address.is_loopback)


def _split(text: str) -> SplitResult:
    # urlsplit drops newlines and tabs silently, so they are refused before it sees them.
    if not re.fullmatch(r"[!-~]+", text) or "\\" in text:
        raise InvalidArgument("The Ollama host holds characters that no address has.", next=_ADVICE)
    if "://" not in text and text.count(":") > 1 and not text.startswith("["):
        text = f"[{text}]"  # a bare IPv6 address
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
    except ValueError as error:
        # What stands before an @ may be a password.
        shown = text.rpartition("@")[2]
        raise InvalidArgument(f"{shown[:80]!r} is not an address ({error}).", next=_ADVICE) from error
    if parts.scheme not in _DEFAULT_PORTS:
        raise InvalidArgument(f"Ollama is reached over http or https, not {parts.scheme[:20]!r}.", next=_ADVICE)
    if "@" in parts.netloc:
        raise InvalidArgument("The Ollama host must not hold a user name or password.", next=_ADVICE)
    if parts.query or parts.fragment:
        raise InvalidArgument("The Ollama host must not hold '?' or '#'.", next=_ADVICE)
    if ".." in parts.path or "%" in parts.path:
        raise InvalidArgument("The path in the Ollama host must be plain.", next=_ADVICE)
    return parts


def _port(parts: SplitResult, text: str) -> int:
    try:
        port = parts.port
    except ValueError as error:
        raise InvalidArgument(f"{text[:80]!r} has no valid port (1 to 65535).", next=_ADVICE) from error
    if port == 0:
        raise InvalidArgument("Port 0 cannot be called.", next=_ADVICE)
    return port or (_DEFAULT_PORTS[parts.scheme] if "://" in text else 11434)


def _is_refused(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is not None:
            return _is_refused(inner)
    return (
        address.is_link_local or address.is_multicast or address.is_unspecified or str(address) in _METADATA_ADDRESSES
    )


def _refused(text: str) -> InvalidArgument:
    return InvalidArgument(
        f"{text[:80]!r} leads to a link-local, metadata or multicast address; no model is served there.", next=_ADVICE
    )
