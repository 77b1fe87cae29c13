"""A module next to a DAG file, which is only imported inside a task."""


def reverse(text):
    return text[::-1]
