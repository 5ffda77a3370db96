"""Duels: arms that take turns until a question is settled, and how far that can be trusted here."""
