"""Files: pictures, checkpoints, and writing that leaves a whole file or none."""
