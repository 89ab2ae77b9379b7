"""What stands for the names and objects of a pickle. None of it can do anything."""

from dataclasses import dataclass, field


class Refused(ValueError):
    """Why a pickle is not read."""


@dataclass(frozen=True)
class Name:
    """A global of the pickle: its name, and nothing else."""

    text: str


@dataclass(eq=False, repr=False)
class Inert:
    """What stands for an object of a name that is not known.

    Attributes:
        name: the object's type, or the function that would have made it.
        arguments: of the call.
        states: what was set on it afterwards.
        items: (key, value) pairs that were put into it.
        elements: values that were appended to it.
    """

    name: str
    arguments: tuple = ()
    states: list = field(default_factory=list)
    items: list = field(default_factory=list)
    elements: list = field(default_factory=list)

    def parts(self):
        """(label, value) of all that it was given."""
        for values in (self.arguments, self.states, self.elements):
            yield from enumerate(values)
        yield from self.items
