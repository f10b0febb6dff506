"""One class for each command: its fields are its settings, calling it does the work. Heavy imports wait until then."""
