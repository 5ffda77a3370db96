"""The instrument: cases, rounds and receipts; statistics and verdicts; reports."""
