"""Read-only MCP views of datasets, runs, models and comparisons."""
