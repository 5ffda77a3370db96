"""From rounds to verdicts: pairs, counts, three answers, and how often they are wrong."""
