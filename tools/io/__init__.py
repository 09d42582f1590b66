"""What all commands share at their edges: the terminal, files written whole, and the weights file."""
