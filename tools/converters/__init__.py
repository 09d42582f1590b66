"""What the converters of data sets and of weights do."""
