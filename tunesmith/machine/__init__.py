"""What this machine has: GPUs, packages, disk, Ollama and llama.cpp."""
