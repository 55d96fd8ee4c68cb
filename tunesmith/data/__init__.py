"""Documents, sections, examples, datasets: everything before a model is involved."""
