"""Prompts: which tools, in which order, with which decisions."""

from __future__ import annotations

from mcp.server import MCPServer


def register(server: MCPServer) -> None:
    """Add the three prompts."""

    @server.prompt(title="Fine-tune from notes")
    def finetune_from_notes(source: str) -> str:
        """From a folder of notes to a model in Ollama."""
        return (
            f"Fine-tune a model on the notes in {source!r}. Call check_gpu, extract_qa, score_dataset; show the user "
            "the findings before clean_dataset. Then split_dataset and plan_training; show the plan before "
            "start_training. Follow it with get_run. When it has succeeded: diagnose_run, export_gguf, "
            "register_ollama, compare_models. Say honestly what the comparison says, also when it says no evidence."
        )

    @server.prompt(title="Improve a run")
    def improve_run(run_id: str) -> str:
        """One change at a time."""
        return (
            f"Call diagnose_run(run_id={run_id!r}). Explain its evidence, propose its one change, and after the user "
            "agrees call start_training with it. Compare both models with compare_models."
        )

    @server.prompt(title="Is fine-tuning worth it?")
    def is_finetuning_worth_it() -> str:
        """Fine-tuning, retrieval or a better prompt."""
        return (
            "Ask the user how often the knowledge changes, whether citations are needed, how many rows there are "
            "(list_datasets) and whether it must work offline. Retrieval fits knowledge that changes or must be cited; "
            "a prompt fits fewer than 100 rows; fine-tuning fits a stable domain and a fixed style. If there is a "
            "trained model, decide by compare_models, not by taste."
        )
