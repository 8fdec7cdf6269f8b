"""The command ``uniaudio``: ``main`` parses and reports errors, the other modules do the work."""
