"""The training engines. Imported only in a training worker."""
