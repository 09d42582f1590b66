"""What tools.publish makes a folder of: the model card, its metrics and its example image."""
