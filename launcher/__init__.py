"""The Launcher: maps Guest memory, owns the vCPU and serves devices. Start reading in launcher/loop.py."""
