"""Reading: from a lab file to a complete lab."""
