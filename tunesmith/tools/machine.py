"""check_gpu."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from tunesmith.machine.records import MachineReport
from tunesmith.tools.services import Services, ToolSpec


def tools(services: Services) -> list[ToolSpec]:
    def check_gpu(
        probe: Annotated[
            bool,
            Field(description="Prove bitsandbytes, Unsloth and Triton by using them; up to 40 s.", examples=[False]),
        ] = False,
    ) -> MachineReport:
        """What this machine can train: GPUs, memory, packages, Ollama, llama.cpp.

        Use this when you begin, or when something does not work. Example: check_gpu(). Next: extract_qa.
        """
        from tunesmith.machine.check import check_machine

        return check_machine(services.workspace, probe=probe, ollama_host=services.ollama_host)

    return [ToolSpec(check_gpu, "Check GPU and packages", read_only=True, idempotent=True)]
