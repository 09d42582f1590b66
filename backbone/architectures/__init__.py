"""The tables of all networks as their papers print them, and what becomes of a table at a width and output stride."""
