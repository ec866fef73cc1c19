"""Files: pictures in and out, checkpoints, and writing that is whole or not at all."""
