"""The instrument. Commands stand here; below them, each importing only what is further down:

duels/      arms that take turns; duel, doctor --aa, calibrate
show/       tables and progress, for people
judging/    from rounds to verdicts
measure/    from what is asked for to rounds
store/      receipts, and the formats of other tools
stats/      numbers in, numbers out
"""
