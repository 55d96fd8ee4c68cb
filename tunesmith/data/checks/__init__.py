"""What can be wrong with training rows: one module for each kind of defect."""
