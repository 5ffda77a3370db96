"""What was measured, on disk: receipts, and the formats of other tools."""
