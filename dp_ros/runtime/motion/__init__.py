"""Motion within limits: chunks joined into one path, planned, stopped, and bounded tick by tick; plain arrays."""
