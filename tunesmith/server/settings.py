"""Settings: command line over environment (`TUNESMITH_…`) over defaults."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """What a server is started with."""

    model_config = SettingsConfigDict(env_prefix="TUNESMITH_", extra="ignore")

    workspace: Path | None = Field(
        default=None, description="Where everything is kept; default: the user's data folder."
    )
    allow_roots: list[Path] = Field(
        default_factory=list, description="Folders callers may name files in; default: the folder it was started in."
    )
    ollama_host: str | None = Field(default=None, description="Address of Ollama; default: OLLAMA_HOST or loopback.")
    read_only: bool = Field(default=False, description="Offer only the tools that change nothing.")

    def workspace_folder(self) -> Path:
        """The workspace's folder, default applied."""
        if self.workspace is not None:
            return self.workspace
        from platformdirs import user_data_path

        return user_data_path("tunesmith", appauthor=False)
