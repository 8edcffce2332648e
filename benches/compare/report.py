"""Tables for people."""

from statistics import median


def number(value):
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1f}" if abs(value) >= 100 else f"{value:.2f}"


def middle(values):
    """The median of those that are known."""
    known = [value for value in values if value is not None]
    return number(median(known) if known else None)


def spread(values):
    known = [value for value in values if value is not None]
    return f"[{number(min(known))}-{number(max(known))}]" if known else "-"


class Table:
    def __init__(self, title, columns):
        self.title, self.columns, self.rows, self.notes = title, columns, [], []

    def row(self, *cells):
        self.rows.append(cells)

    def fail(self, name, reason):
        if reason:
            self.notes.append(f"{name}: not measured: {reason}")

    def note(self, text):
        self.notes.append(text)

    def print(self):
        lines = [self.columns, *self.rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.columns))]
        print(f"\n== {self.title}")
        for line in lines:
            first = line[0].ljust(widths[0])
            print("  ".join([first, *[cell.rjust(width) for cell, width in zip(line[1:], widths[1:])]]))
        for note in self.notes:
            print(f"   {note}")
        print(flush=True)
