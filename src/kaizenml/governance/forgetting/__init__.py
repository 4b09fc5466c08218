"""A person is forgotten everywhere, and it is shown that they are."""
