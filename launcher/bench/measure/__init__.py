"""From what is asked for to rounds: the cases, the processes of a round, and what is read off them."""
