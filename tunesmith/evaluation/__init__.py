"""Asking models, scoring answers, statistics, reports."""
