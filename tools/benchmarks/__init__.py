"""What tools.benchmark times, one file per subject."""
