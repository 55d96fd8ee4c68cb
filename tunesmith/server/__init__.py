"""The composition root: settings, transports, strict arguments, the MCP server itself."""
