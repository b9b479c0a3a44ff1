"""The words of a lab: frozen, complete values without input or output."""
