"""The painter of the street world that `make demo` trains on."""
