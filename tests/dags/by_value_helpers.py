"""A module beside a DAG file: executors do not have it."""


def shout(text):
    return text.upper() + "!"
