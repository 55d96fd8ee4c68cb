"""An OpenAI-compatible front for a GGUF that llama.cpp serves, with the prompt that the model was trained on."""
