"""Telling: the command line, which says what the rooms below have done."""
