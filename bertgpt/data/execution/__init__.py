"""Tasks, their results, the work directory, and worker processes."""
