"""What the evaluations share: the loader, scoring a model or files, metrics.json and report pages."""
