"""Files of models on the Hugging Face Hub: from the local cache first, fetched only where that is allowed.

HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE mean what they mean everywhere.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tunesmith.errors import MissingExtra, NotFound, NotSupported, ServiceFailed, Unreachable, UserError

ANSWER_TIMEOUT_S = 10.0
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
# Never pickles, never code, no second copy of the weights in another format.
PATTERNS = ("*.json", "*.safetensors", "*.jinja", "tokenizer.model", "*.txt", "LICENSE*")


def file(repository: str, name: str, *, download: bool, required: bool = False) -> Path | None:
    """One small file of a model, or None if the model has none of that name.

    Args:
        repository: ORGANISATION/NAME.
        download: ask the Hub if it is not in the cache.
        required: not to be found out is an error, not None.

    Raises:
        NotFound: there is no such model.
        NotSupported: access must be asked for first.
        Unreachable: the Hub did not answer, and the cache does not say.
        MissingExtra: huggingface_hub is not installed.
    """
    hub = _library()
    cached = hub.try_to_load_from_cache(repository, name)
    if isinstance(cached, str):
        return Path(cached)
    # A model whose weights were fetched was fetched whole: what it lacks then, it has not.
    if cached is not None or any(isinstance(hub.try_to_load_from_cache(repository, w), str) for w in WEIGHTS):
        return None
    if not download:
        return None
    try:
        if not _exists(hub, repository, name):
            return None
        return Path(hub.hf_hub_download(repository, name, etag_timeout=ANSWER_TIMEOUT_S))
    except _failures() as error:
        explained = _explained(error, repository)
        whole = isinstance(hub.try_to_load_from_cache(repository, "config.json"), str)
        if isinstance(explained, Unreachable) and whole and not required:
            return None
        raise explained from error


def snapshot(repository: str, *, download: bool) -> Path:
    """The folder of a model in the local cache.

    Args:
        download: fetch it (gigabytes) if it is not there or not whole.

    Raises:
        NotFound: not in the cache and not to be fetched; or there is no such model.
        Others as `file`.
    """
    hub = _library()
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        if download:
            _exists(hub, repository, "config.json")
        folder = hub.snapshot_download(
            repository, local_files_only=not download, allow_patterns=list(PATTERNS), etag_timeout=ANSWER_TIMEOUT_S
        )
    except _failures() as error:
        if isinstance(error, LocalEntryNotFoundError) and not download:
            raise NotFound(
                f"{repository} is not in the local cache of the Hugging Face Hub.",
                next=f"Fetch it first: hf download {repository}, or name it in start_training, which fetches it.",
            ) from error
        raise _explained(error, repository) from error
    return Path(folder)


def _exists(hub: Any, repository: str, name: str) -> bool:
    """Ask the Hub once. The library itself would try again for 23 seconds where nothing answers."""
    from huggingface_hub.constants import is_offline_mode
    from huggingface_hub.errors import EntryNotFoundError, OfflineModeIsEnabled

    if is_offline_mode():
        raise OfflineModeIsEnabled("HF_HUB_OFFLINE is set")
    try:
        hub.get_hf_file_metadata(hub.hf_hub_url(repository, name), timeout=ANSWER_TIMEOUT_S)
    except EntryNotFoundError:
        return False
    return True


def _failures() -> tuple[type[Exception], ...]:
    """What the library raises when a model cannot be had: its own errors, those of the disk, those of the network."""
    import httpx

    return (OSError, ValueError, httpx.HTTPError)


def is_installed() -> bool:
    """Whether the Hub's library is there at all."""
    return find_spec("huggingface_hub") is not None


def _explained(error: BaseException, repository: str) -> UserError:
    """What the Hub's refusal means for the caller. The library keeps the reason in a chain of causes."""
    from huggingface_hub import errors
    from huggingface_hub.constants import is_offline_mode

    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    if any(isinstance(link, errors.GatedRepoError) for link in chain):
        return NotSupported(
            f"{repository} is given out only to those who accepted its licence.",
            next=f"Accept it at https://huggingface.co/{repository}, set HF_TOKEN, and call again.",
        )
    if any(isinstance(link, errors.RepositoryNotFoundError) for link in chain):
        return NotFound(
            f"There is no model {repository} on the Hugging Face Hub that you may read.",
            next="Check the spelling (capitals count); for a private model set HF_TOKEN.",
        )
    if isinstance(error, errors.HFValidationError):
        return NotFound(f"{repository!r} is no name on the Hugging Face Hub.", next="Use ORGANISATION/NAME.")
    if any(isinstance(link, errors.HfHubHTTPError) for link in chain):
        status = next(link for link in chain if isinstance(link, errors.HfHubHTTPError)).response.status_code
        return ServiceFailed(
            f"The Hugging Face Hub answered {status} for {repository}.", next="Wait a minute and call again."
        )
    if is_offline_mode():
        return Unreachable(
            f"{repository} is not in the local cache, and HF_HUB_OFFLINE forbids asking for it.",
            next="Unset HF_HUB_OFFLINE, or copy the model here and give its folder, or use base_model='embedded'.",
        )
    return Unreachable(
        f"{repository} is not in the local cache, and the Hugging Face Hub did not answer.",
        next="Check the network (or HF_ENDPOINT), give a local folder, or use base_model='embedded'.",
    )


def _library() -> Any:
    try:
        import huggingface_hub
    except ModuleNotFoundError as error:
        raise MissingExtra("huggingface_hub", extra="train", purpose="read models of the Hub") from error
    return huggingface_hub
