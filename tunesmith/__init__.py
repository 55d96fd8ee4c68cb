"""tunesmith: fine-tune a language model on your own notes, through an AI assistant."""

__version__ = "0.1.0"
