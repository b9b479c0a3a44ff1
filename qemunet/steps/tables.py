"""Steps about tables of nft rules."""

from __future__ import annotations

from qemunet.frozen import frozen
from qemunet.steps.links import Mark
from qemunet.steps.words import line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qemunet.facts import Facts
    from qemunet.steps import Step

FAMILY = "inet"
_END = "QEMUNET"  # no line of a table is like it


@frozen
class LoadTable:
    """Load a table of ours in one transaction, in the place of one of ours that is there already.

    `rules` is its whole text, with the mark's altname as its comment. `was` is the text that it has now, if it is there
    on purpose: without it one that is found is what a killed qemunet has left.
    """

    name: str
    mark: Mark
    rules: str
    was: str | None = None

    def describe(self) -> str:
        return f"load table {FAMILY} {self.name}"

    def inverse(self, before: Facts) -> Step | None:
        if self.was is None:
            return DropTable(self.name, self.mark)
        return LoadTable(self.name, self.mark, self.was, self.rules)

    @property
    def transaction(self) -> str:
        """What ``nft -f -`` reads: the table may be there or not, and is never half there."""
        return f"table {FAMILY} {self.name}\ndelete table {FAMILY} {self.name}\n{self.rules}"

    def shell(self) -> tuple[str, ...]:
        # A script cannot look whose a table is: it makes a new one, or ends.
        text = f"create table {FAMILY} {self.name}\n{self.rules}" if self.was is None else self.transaction
        return (f"nft -f - <<'{_END}'\n{text}{_END}",)


@frozen
class DropTable:
    """Delete a table of ours with all its rules."""

    name: str
    mark: Mark

    def describe(self) -> str:
        return f"delete table {FAMILY} {self.name}"

    def inverse(self, before: Facts) -> Step | None:
        return None

    def shell(self) -> tuple[str, ...]:
        return (line("nft", "delete", "table", FAMILY, self.name),)
