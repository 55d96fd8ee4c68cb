"""Settings of the whole suite."""

from hypothesis import settings

# The same examples each time: a change is judged by what it changes, not by the luck of a draw.
settings.register_profile("suite", derandomize=True)
settings.load_profile("suite")
