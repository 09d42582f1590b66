"""What the checks of data sets share, and what each of them looks for."""
