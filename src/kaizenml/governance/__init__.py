"""What reaches through all rooms: a person is forgotten, and it is shown that they are."""
