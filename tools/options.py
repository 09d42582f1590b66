"""What can be chosen in the tools, by name; free of torch, for command lines."""

ENGINES = ("auto", "torch")
"""What runs a model, see `tools.predict.load`."""
