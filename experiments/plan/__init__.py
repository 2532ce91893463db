"""Plans a run on chips that need not be there: its memory, work and time."""
