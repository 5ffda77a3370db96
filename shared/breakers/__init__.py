"""The kinds of breakers: one file, one kind; the file's name is its name on the command line (shared/breaker.py)."""
