"""A module next to a DAG file, which executors do not have."""


def shout(text):
    return text.upper() + "!"
