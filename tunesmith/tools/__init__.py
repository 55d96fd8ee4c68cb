"""MCP tools, one module a family. A tool validates, calls one domain function, returns its model."""
