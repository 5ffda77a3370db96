"""The statistics: no round, no file, nothing of ours; numbers in, numbers out. Checked against scipy by the tests."""
