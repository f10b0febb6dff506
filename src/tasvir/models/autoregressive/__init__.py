"""Models that draw one value after another, each given all before it."""
