"""The tables of all networks as their papers print them, and the plan of a network at a width and output stride."""
