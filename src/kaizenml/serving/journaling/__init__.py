"""The journal of what was answered, and its way into the table of predictions."""
