"""What tests of several packages build their data and networks with."""
