"""Export of models to the files of runtimes: the graph, a module per format, and the comparison of what was written.

A further format is a module `NAME_format.py` with functions that check its packages, write a graph and run a file, and
a row in `formats.FORMATS`; the comparison, the record and the command then know it.
"""
