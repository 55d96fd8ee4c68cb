"""Merge, GGUF, what quantisation costs, Ollama."""
