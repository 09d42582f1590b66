"""What the training tools share: configs, the loop and what it needs around it."""
