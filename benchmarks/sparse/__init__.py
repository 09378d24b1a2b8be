"""What sparse attention costs in quality, and what it gains in time."""
