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
    family: str = FAMILY

    def describe(self) -> str:
        return f"load table {self.family} {self.name}"

    def inverse(self, before: Facts) -> Step | None:
        if self.was is None:
            return DropTable(self.name, self.mark, family=self.family)
        return LoadTable(self.name, self.mark, self.was, self.rules, self.family)

    @property
    def transaction(self) -> str:
        """What ``nft -f -`` reads: the table may be there or not, and is never half there."""
        table = f"table {self.family} {self.name}"
        return f"{table}\ndelete {table}\n{self.rules}"

    def shell(self) -> tuple[str, ...]:
        # A script cannot look whose a table is: it makes a new one, or ends.
        new = f"create table {self.family} {self.name}\n{self.rules}"
        return (f"nft -f - <<'{_END}'\n{new if self.was is None else self.transaction}{_END}",)


@frozen
class DropTable:
    """Delete a table of ours with all its rules; `was`: its text, if that may have to be loaded again."""

    name: str
    mark: Mark
    was: str | None = None
    family: str = FAMILY

    def describe(self) -> str:
        return f"delete table {self.family} {self.name}"

    def inverse(self, before: Facts) -> Step | None:
        return None if self.was is None else LoadTable(self.name, self.mark, self.was, family=self.family)

    def shell(self) -> tuple[str, ...]:
        return (line("nft", "delete", "table", self.family, self.name),)
