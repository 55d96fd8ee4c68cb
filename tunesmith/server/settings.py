"""Settings: command line over environment (`TUNESMITH_…`) over defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from tunesmith.errors import InvalidArgument


class Settings(BaseSettings):
    """What a server is started with.

    Raises:
        InvalidArgument: a variable that cannot be read.
    """

    model_config = SettingsConfigDict(
        env_prefix="TUNESMITH_",
        env_ignore_empty=True,  # a bundle's setting that was left blank; an empty path would be the current folder
        extra="ignore",
    )

    workspace: Path | None = Field(
        default=None, description="Where everything is kept; default: the user's data folder."
    )
    allow_roots: list[Path] = Field(
        default_factory=list, description="Folders callers may name files in; default: the folder it was started in."
    )
    ollama_host: str | None = Field(default=None, description="Address of Ollama; default: OLLAMA_HOST or loopback.")
    read_only: bool = Field(default=False, description="Offer only the tools that change nothing.")

    def __init__(self, **given: Any) -> None:
        try:
            super().__init__(**given)
        except SettingsError as error:  # the list of folders: the one that is read as JSON
            raise _unreadable("allow_roots", f"not JSON, {error.__cause__}") from error
        except ValidationError as error:
            first = error.errors()[0]
            raise _unreadable(str(first["loc"][0]), first["msg"]) from error

    def roots(self) -> list[Path]:
        """Folders callers may name files in, default applied; none where the folder it was started in is gone."""
        if self.allow_roots:
            return self.allow_roots
        try:
            return [Path.cwd()]
        except FileNotFoundError:
            return []

    def workspace_folder(self) -> Path:
        """The workspace's folder, default applied."""
        if self.workspace is not None:
            return self.workspace
        from platformdirs import user_data_path

        return user_data_path("tunesmith", appauthor=False)


def _unreadable(setting: str, why: str) -> InvalidArgument:
    shape = {"allow_roots": 'a list such as ["/home/me/notes"]', "read_only": "true or false"}
    variable = f"TUNESMITH_{setting.upper()}"
    return InvalidArgument(
        f"The environment's {variable} cannot be read: {why}.",
        next=f"Set it to {shape.get(setting, 'a text')}, or take it away.",
    )
