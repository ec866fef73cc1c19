"""Data sets: folders of contents and styles, painted pair by pair."""
