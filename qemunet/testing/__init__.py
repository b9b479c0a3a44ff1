"""For tests, of this project and of others: a host that is not there."""
