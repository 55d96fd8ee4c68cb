"""Ways to find questions and answers in a section, one a module.

A strategy is a module here with `PRIORITY` (lower goes first; later ones see what earlier
ones took) and `find(view) -> list[Candidate]`. Its name is the module's.
"""
