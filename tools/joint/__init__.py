"""One backbone with several heads: the network, its weights file, its training and scoring."""
