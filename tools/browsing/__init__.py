"""The page that shows a model in the browser: its graph, its files, the runtime, and a server."""
