"""What a client's messages look like: name -> field -> number, type, label."""


def numbers_of(file) -> dict[str, dict[str, list[int]]]:
    """Return every message of a file, those inside of others as well."""
    found = {}
    waiting = list(file.message_types_by_name.values())
    while waiting:
        message = waiting.pop()
        found[message.full_name] = {field.name: [field.number, field.type, int(field.is_repeated)] for field in message.fields}
        waiting += message.nested_types
    return found
