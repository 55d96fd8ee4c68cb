"""Model references: one string that says which model is meant.

run_…                             the model a training run made
mdl_…                             a trained model
ollama:NAME                       a model in Ollama
openai:NAME                       an OpenAI-compatible endpoint, base URL from the settings
openai:NAME@http://host:port/v1   the same, at that address
embedded                          the 135M model that comes as a package
ORGANISATION/NAME                 a model on the Hugging Face Hub
./folder or /path/to/folder       a local folder in Hugging Face format
"""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from tunesmith.errors import InvalidArgument, NotFound, PathRefused
from tunesmith.workspace import Workspace, check_id

Kind = Literal["run", "model", "ollama", "openai", "embedded", "hub", "folder"]

EMBEDDED = "embedded"
FORMS = (
    "run_…, mdl_…, ollama:NAME, openai:NAME, openai:NAME@http://host:port/v1, embedded, "
    "a Hub id such as Qwen/Qwen2.5-0.5B-Instruct, or a local folder such as ./my-model"
)
MAX_CHARS = 500
# Letters of any script, digits, dots and dashes; a namespace before a slash, a tag after a colon.
_OLLAMA_NAME = re.compile(
    r"([A-Za-z0-9][\w.:-]*/)?([A-Za-z0-9_][\w-]*/)?[A-Za-z0-9_][\w.-]{0,79}(:[A-Za-z0-9_][\w.-]{0,79})?", re.ASCII
)
_OPENAI_NAME = re.compile(r"[\w@][\w.:/@+-]{0,199}")
_OPENAI_AT = re.compile(r"(?P<name>.+?)@(?P<url>[A-Za-z][A-Za-z0-9+.-]*:.*)")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
# Answered by cloud providers with a machine's credentials, and not in the link-local ranges.
_METADATA_ADDRESSES = frozenset({"100.100.100.200", "fd00:ec2::254", "192.0.0.192", "168.63.129.16"})
_METADATA_NAMES = frozenset({"metadata", "metadata.google.internal", "metadata.goog", "instance-data"})


@dataclass(frozen=True)
class Reference:
    """A parsed model reference.

    Attributes:
        kind: which of the forms.
        name: the id, the model's name there, or the folder's real path.
        base_url: of an OpenAI-compatible endpoint, without a trailing slash; None: the settings say.
        text: as the caller wrote it.
    """

    kind: Kind
    name: str
    base_url: str | None = None
    text: str = ""


def parse_reference(text: str, workspace: Workspace) -> Reference:
    """Understand a model reference. Looks at the disk only for folders; contacts nothing.

    Raises:
        InvalidArgument: of none of the forms, or an address that is never called.
        NotFound: a local folder that is not there.
        PathRefused: a folder outside the allowed roots.
    """
    stripped = text.strip()
    if not stripped or len(stripped) > MAX_CHARS or any(ord(character) < 32 for character in stripped):
        raise _malformed(text)
    if stripped == EMBEDDED:
        return Reference("embedded", EMBEDDED, text=text)
    if stripped.startswith("run_"):
        return Reference("run", check_id("run", stripped), text=text)
    if stripped.startswith("mdl_"):
        return Reference("model", check_id("mdl", stripped), text=text)
    scheme, colon, rest = stripped.partition(":")
    if colon and scheme.lower() == "ollama":
        return Reference("ollama", _ollama_name(rest), text=text)
    if colon and scheme.lower() == "openai":
        name, url = _openai(rest)
        return Reference("openai", name, base_url=url, text=text)
    return _hub_or_folder(stripped, workspace)


def check_base_url(url: str) -> str:
    """The base URL of an OpenAI-compatible endpoint, without its trailing slash.

    A host name is not resolved here: this keeps mistakes and planted text from reaching metadata services;
    it is no security boundary against whoever controls the name server.

    Raises:
        InvalidArgument: not http or https, credentials inside, or an address that is never called.
    """
    advice = "Give an address such as http://127.0.0.1:8000/v1; put the key in the settings."
    # urlsplit drops newlines and tabs silently, so they are refused before it sees them.
    if not re.fullmatch(r"[!-~]+", url) or "\\" in url:
        raise InvalidArgument("The base URL holds characters that no address has.", next=advice)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise InvalidArgument(f"The base URL is no address ({error}).", next=advice) from error
    if parts.scheme not in ("http", "https"):
        raise InvalidArgument(f"A base URL is http or https, not {parts.scheme[:20]!r}.", next=advice)
    if "@" in parts.netloc:
        raise InvalidArgument("The base URL must not hold a user name or password.", next=advice)
    if parts.query or parts.fragment:
        raise InvalidArgument("The base URL must not hold '?' or '#'.", next=advice)
    host = (parts.hostname or "").rstrip(".")
    if not host or port == 0:
        raise InvalidArgument(f"The base URL {url[:80]!r} names no host or port to call.", next=advice)
    if host.lower() in _METADATA_NAMES or _is_refused(_literal_address(host)):
        raise InvalidArgument(
            f"{url[:80]!r} leads to a link-local, metadata or unspecified address; no model is served there.",
            next=advice,
        )
    return url.rstrip("/")


def _ollama_name(name: str) -> str:
    if not _OLLAMA_NAME.fullmatch(name):
        raise InvalidArgument(
            f"{name[:60]!r} is no name of a model in Ollama.",
            next="Use ollama: and a name as `ollama list` shows it, such as ollama:qwen2.5:7b.",
        )
    return name


def _openai(rest: str) -> tuple[str, str | None]:
    match = _OPENAI_AT.fullmatch(rest)
    name, url = (match["name"], check_base_url(match["url"])) if match else (rest, None)
    if not _OPENAI_NAME.fullmatch(name):
        raise InvalidArgument(
            f"{rest[:80]!r} names no model of an endpoint.",
            next="Use openai:NAME, or openai:NAME@http://host:port/v1.",
        )
    return name, url


def _hub_or_folder(text: str, workspace: Workspace) -> Reference:
    """A folder if it is written as one or there is one of that name, else a Hub id."""
    is_path = text.startswith(("/", "./", "../", "~", ".\\", "..\\")) or text in (".", "..") or Path(text).is_absolute()
    is_hub_id = bool(_HUB_ID.fullmatch(text)) and not text.endswith((".git", ".")) and ".." not in text
    if not is_path and not is_hub_id and not re.fullmatch(r"[\w .+/\\-]+", text):
        raise _malformed(text)
    try:
        folder = workspace.roots.resolve(text)
    except (NotFound, PathRefused):
        if is_hub_id and not is_path:
            return Reference("hub", text, text=text)
        if is_path:
            raise
        raise _malformed(text) from None
    if not folder.is_dir():
        raise InvalidArgument(
            f"{text[:80]!r} is a file; a local model is a folder with config.json and *.safetensors.",
            next="Give the folder. To use a GGUF, register it in Ollama and refer to it as ollama:NAME.",
        )
    return Reference("folder", str(folder), text=text)


def _malformed(text: str) -> InvalidArgument:
    return InvalidArgument(f"{text[:80]!r} is no model reference.", next=f"Use one of: {FORMS}.")


def _literal_address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The IP address that `name` spells, also in its old forms (`2130706433`, `127.1`); None for a name."""
    try:
        return ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        pass
    # The C library still takes these, so they must not slip past the check as names.
    if not re.fullmatch(r"(0x[0-9a-f]*|[0-9]+)(\.(0x[0-9a-f]*|[0-9]+)){0,3}", name, re.IGNORECASE):
        return None
    try:
        return ipaddress.ip_address(socket.inet_aton(name))
    except OSError:
        return None


def _is_refused(address: ipaddress.IPv4Address | ipaddress.IPv6Address | None) -> bool:
    if address is None:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is not None:
            return _is_refused(inner)
    return (
        address.is_link_local or address.is_multicast or address.is_unspecified or str(address) in _METADATA_ADDRESSES
    )
