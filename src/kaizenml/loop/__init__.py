"""Loop: the reconciler that retrains, tries and promotes or rolls back, on evidence."""
