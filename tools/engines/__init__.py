"""What runs a model's network: torch, its compiler, or a runtime; each takes bytes of images and gives raw output."""
