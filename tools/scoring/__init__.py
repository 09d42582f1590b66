"""What the evaluations share: scoring a model or files, metrics.json and report pages."""
