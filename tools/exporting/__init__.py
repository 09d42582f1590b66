"""Export of models to the files of runtimes: the graph, a module per format, and the check of what was written."""
