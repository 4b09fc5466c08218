"""From files, folders, object stores and databases to rows, piece by piece."""
