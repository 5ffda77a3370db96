"""`launcher check`: proves what every Waker must keep, Waker by Waker, engine by engine."""
