"""What the Guest sees as its machine. Devices know rings and files; never engines, Wakers or each other."""
