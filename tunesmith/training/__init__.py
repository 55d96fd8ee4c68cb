"""Recipe, planner, memory model, the trainer process, diagnosis."""
