"""The files of a Hugging Face data set, from the cache or over the network."""

from __future__ import annotations

import fnmatch
from pathlib import Path

from tunesmith.errors import BadInput, MissingExtra, NotFound, NotSupported, Unreachable

MAX_BYTES = 512 * 2**20
TIMEOUT_S = 10
_KINDS = ("*.parquet", "*.jsonl", "*.json", "*.csv")
_NOT_ROWS = ("dataset_infos.json", "dataset_info.json", "state.json")
_EVAL_NAMES = ("eval", "validation", "valid", "dev", "test")


def hub_files(repo_id: str, split: str) -> list[Path]:
    """The row files of one split of `repo_id`, downloaded if they are not cached.

    Args:
        repo_id: `owner/name`.
        split: train or eval (also called validation, dev or test there).

    Raises:
        MissingExtra: huggingface_hub is not installed.
        NotFound: there is no such data set.
        Unreachable: it is not cached and the Hub does not answer.
        BadInput: no file of rows for that split.
        NotSupported: larger than 512 MiB.
    """
    try:
        import huggingface_hub
        from huggingface_hub.errors import LocalEntryNotFoundError
    except ModuleNotFoundError as error:
        raise MissingExtra("huggingface_hub", extra="train", purpose="read a Hub data set") from error
    try:
        folder = Path(
            huggingface_hub.snapshot_download(
                repo_id, repo_type="dataset", allow_patterns=list(_KINDS), local_files_only=True
            )
        )
        names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
        chosen = _of_split(names, split)
        if chosen:
            return [folder / name for name in chosen]
    except LocalEntryNotFoundError:
        pass  # nothing cached: ask the Hub
    return _download(repo_id, split)


def _download(repo_id: str, split: str) -> list[Path]:
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        info = huggingface_hub.HfApi().dataset_info(repo_id, files_metadata=True, timeout=TIMEOUT_S)
        sizes = {sibling.rfilename: sibling.size or 0 for sibling in info.siblings or []}
        chosen = _of_split(sorted(sizes), split)
        if not chosen:
            raise BadInput(
                f"The Hub data set {repo_id} has no JSON, JSONL, CSV or Parquet file for {split}.",
                next="Import a file instead, or name the other split.",
            )
        total = sum(sizes[name] for name in chosen)
        if total > MAX_BYTES:
            raise NotSupported(
                f"The {split} files of {repo_id} have {total / 2**20:.0f} MiB; an import takes {MAX_BYTES // 2**20}.",
                next="Download the part you need and import that file.",
            )
        return [Path(huggingface_hub.hf_hub_download(repo_id, name, repo_type="dataset")) for name in chosen]
    except RepositoryNotFoundError as error:
        raise NotFound(
            f"There is no file and no Hub data set {repo_id!r}, or it is private.",
            next="Check the name, or give the path of a file.",
        ) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise _unreachable(repo_id, error) from error
    except Exception as error:
        # Which HTTP library fails depends on the version; everything else passes.
        if type(error).__module__.partition(".")[0] in ("httpx", "httpcore", "requests", "urllib3"):
            raise _unreachable(repo_id, error) from error
        raise


def _unreachable(repo_id: str, error: Exception) -> Unreachable:
    return Unreachable(
        f"{repo_id!r} is not a file here, not in the Hub's cache, and the Hub could not be asked "
        f"({type(error).__name__}).",
        next="Give the path of a file, or call again with a connection.",
    )


def _of_split(names: list[str], split: str) -> list[str]:
    """The files of a split by their names; all of them, for train, where no name tells a split."""
    rows = [
        name
        for name in names
        if any(fnmatch.fnmatch(name.lower(), kind) for kind in _KINDS) and name.rpartition("/")[2] not in _NOT_ROWS
    ]
    evaluation = [name for name in rows if any(word in name.lower() for word in _EVAL_NAMES)]
    if split == "eval":
        return evaluation
    return [name for name in rows if "train" in name.lower()] or [name for name in rows if name not in evaluation]
