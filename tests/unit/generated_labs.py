"""Lab files in random spellings, in which every line knows to which card it belongs."""

from __future__ import annotations

import random
import tomllib
from collections.abc import Iterator

from qemunet.config import check, read
from qemunet.errors import ConfigError
from qemunet.frozen import frozen

VMS = ("alice", "bob", "carol", "d-4")
TRICKS = (
    'append = "console=ttyS0 # [vm.bob]"',
    "append = '''\\\n[[vm.alice.nic]] # \"no\"'''",
    'append = """a ""quoted""" # x',
    'append = """\\\n  # nic = []\\\n  [[vm.bob.nic]]\\\n  """""',
)


@frozen
class Line:
    """A line without its break. `owner` is the vm to whose cards it belongs, `card` which one, None any of them."""

    text: str
    owner: str = ""
    card: int | None = None


@frozen
class Written:
    """A lab file."""

    text: str
    lines: tuple[Line, ...]
    end: str


def generate(seed: int) -> Written:
    """Return a random lab file that can be run."""
    for attempt in range(200):
        found = _Author(random.Random(f"{seed}/{attempt}")).write()
        try:
            check.check(read.loads(found.text, "lab.toml"))
        except ConfigError:
            continue  # TOML does not take every order of tables
        return found
    raise AssertionError(f"seed {seed} gives no lab")


class _Author:
    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        self.end = dice.choice(["\n", "\n", "\r\n"])
        self.indent = dice.choice(["", "", "  ", "\t"])
        self.airy = dice.random() < 0.7
        self.commented = dice.random() < 0.7
        self.address = 0

    def often(self, chance: float = 0.5) -> bool:
        return self.dice.random() < chance

    def write(self) -> Written:
        dice = self.dice
        root: list[Line] = []
        blocks: list[list[Line]] = []
        upper: list[Line] = []
        for vm in dice.sample(VMS, dice.randint(1, 3)):
            style = dice.choice(["header"] * 5 + ["parts", "root", "super", "inline", "inline in super"])
            self.vm(vm, style, root, upper, blocks)
        if upper:
            blocks.append([self.header("[vm]"), *upper])
        blocks.append([self.header("[network.n]"), *self.pairs(['mode = "private"'])])
        if self.often(0.3):
            blocks.append([self.header("[lab]"), *self.pairs(['name = "the-lab"'])])
        if self.often(0.3):
            blocks = self.shuffled(blocks)
        lines = [Line(one) for one in (["# a lab \u2028 with \x85 and \u00fc", ""] if self.often() else [])]
        lines += root
        for block in blocks:
            lines += self.gap() if lines else []
            lines += block
        lines += [Line("")] * dice.choice([0, 0, 1, 2]) + ([Line(""), Line("# the end")] if self.often(0.2) else [])
        end = self.end if self.often(0.8) or not lines[-1].text else ""
        bom = "\ufeff" if self.often(0.1) else ""
        return Written(bom + self.end.join(line.text for line in lines) + end, tuple(lines), self.end)

    def shuffled(self, blocks: list[list[Line]]) -> list[list[Line]]:
        """Return the blocks in any order, the cards of a vm in theirs."""
        mixed = self.dice.sample(blocks, len(blocks))
        for vm in VMS:
            places = [at for at, block in enumerate(mixed) if block[0].owner == vm]
            for at, block in zip(places, [block for block in blocks if block[0].owner == vm], strict=True):
                mixed[at] = block
        return mixed

    def gap(self) -> list[Line]:
        free = [Line(""), Line("# on its own"), Line("")] if self.commented and self.often(0.2) else []
        return free or [Line("")] * (self.dice.choice([1, 1, 2]) if self.airy else 0)

    def tail(self) -> str:
        return self.dice.choice(["  # said", "\t# \u00e9t\u00e9", " "]) if self.commented and self.often(0.3) else ""

    def header(self, text: str) -> Line:
        return Line(text + self.tail())

    def pairs(self, pairs: list[str], owner: str = "", card: int | None = None) -> Iterator[Line]:
        for pair in pairs:
            for one in f"{self.indent}{pair}{self.tail()}".split("\n"):
                yield Line(one, owner, card)

    # ------------------------------------------------------------ vms

    def vm(self, vm: str, style: str, root: list[Line], upper: list[Line], blocks: list[list[Line]]) -> None:
        cards = [self.card(at) for at in range(self.dice.choice([0, 1, 1, 2, 3, 4]))]
        told = bool(cards) or self.often()
        own = self.own()
        quoted = self.dice.choice([vm, vm, vm, f'"{vm}"', f"'{vm}'"])
        match style:
            case "inline" | "inline in super":
                inner = [*own, *([self.array(cards)] if told else [])]
                table = f"{quoted} = {{ {', '.join(inner) or 'cpus = 1'} }}"
                line = Line(f"vm.{table}" if style == "inline" else table, vm)
                (root if style == "inline" else upper).append(line)
            case "root" | "super":
                start, lines = (f"vm.{quoted}.", root) if style == "root" else (f"{quoted}.", upper)
                lines += self.pairs([start + one for one in own])
                if told and self.often():
                    lines += self.pairs([f"{start}{self.array(cards)}"], vm)
                elif told and cards:
                    self.tables(vm, quoted, cards, blocks)
            case "parts":
                blocks.append([self.header(f"[vm.{quoted}.boot]"), *self.pairs(['guest = "tiny"'])])
                self.tables(vm, quoted, cards, blocks)
            case _:
                head = [self.header(f"[vm.{quoted}]"), *self.pairs(own)]
                blocks.append(head)
                if self.often(0.3):
                    blocks.append([self.header(f"[ vm . {quoted} . machine ]"), *self.pairs(['type = "q35"'])])
                if "guest" not in "".join(own) and self.often(0.4):
                    boot = self.pairs(['kernel = "k"', self.dice.choice(TRICKS)])
                    blocks.append([self.header(f"[vm.{quoted}.boot]"), *boot])
                if told and (not cards or self.often(0.3)):
                    head += self.several(vm, cards)
                else:
                    self.tables(vm, quoted, cards, blocks)

    def own(self) -> list[str]:
        known = [
            'memory = "256M"',
            "cpus = 2",
            'boot.guest = "tiny"',
            'qemu-args = ["-rtc", "a]#[b"]',
            "'user' = \"1:2\"",
        ]
        return self.dice.sample(known, self.dice.randint(1, 3))

    def card(self, at: int) -> list[tuple[str, str]]:
        self.address += 1
        kinds = [
            [("mode", '"user"')],
            [("network", "'n'")],
            [("network", '"n"'), ("ip", f'["10.0.0.{self.address}/24"]')],
            [],
        ]
        more = [("link", '"up"'), ('"model"', '"e1000"'), ("boot-index", str(at)), ("gateway", "[]")]
        named = [("id", f'"{self.dice.choice("xyz")}{self.address}"')] if self.often(0.3) else []
        on = self.dice.choice(kinds)
        if on and on[0][0] == "network":
            rate = [("rate", '{ in = "1mbit" }'), ("rate.out", '"2mbit"'), ("[rate]", 'in = "3kbit"')]
            on = [*on, *self.dice.sample(rate, self.often(0.4))]
        pairs = named + on + self.dice.sample(more, self.dice.randint(0, 2))
        return self.dice.sample(pairs, len(pairs))

    def inline(self, card: list[tuple[str, str]]) -> str:
        inner = ", ".join(f"{key} = {value}" for key, value in card if key != "[rate]")
        return f"{{ {inner} }}" if self.often() else f"{{{inner}}}"

    def array(self, cards: list[list[tuple[str, str]]]) -> str:
        comma = "," if cards and self.often(0.2) else ""
        return f"nic = [{', '.join(map(self.inline, cards))}{comma}]"

    def several(self, vm: str, cards: list[list[tuple[str, str]]]) -> Iterator[Line]:
        """An array of cards in one line, or in several."""
        if not cards or self.often(0.4):
            yield from self.pairs([self.array(cards)], vm)
            return
        owner = vm if len(cards) == 1 else ""  # the brackets of a single one close up behind it
        yield Line(f"{self.indent}nic = [{self.tail()}", owner, 0)
        for at, card in enumerate(cards):
            if self.commented and self.often(0.3):
                yield Line("    # about this one", vm, at)
            comma = "," if at + 1 < len(cards) or self.often() else ""
            yield Line(f"    {self.inline(card)}{comma}{self.tail()}", vm, at)
        if self.commented and self.often(0.3):
            yield from (Line(""), Line("  # no more"))
        yield Line(f"{self.indent}]{self.tail()}", owner, 0)

    def tables(self, vm: str, quoted: str, cards: list[list[tuple[str, str]]], blocks: list[list[Line]]) -> None:
        for at, card in enumerate(cards):
            block = [Line(f"# card {at}", vm, at)] * (self.commented and self.often(0.4))
            block += [Line(self.header(f"[[vm.{quoted}.nic]]").text, vm, at)]
            for key, value in card:
                if key == "[rate]":
                    continue
                block += self.pairs([f"{key} = {value}"], vm, at)
            if self.commented and self.airy and self.often(0.2):
                block += [Line("# mtu = 9000", vm, at), Line("")]
            if "[rate]" in dict(card):
                block += [Line(f"[vm.{quoted}.nic.rate]", vm, at)]
                block += self.pairs([dict(card)["[rate]"]], vm, at)
            blocks.append(block)


def cards(text: str, vm: str) -> list[dict[str, object]] | None:
    """Return a vm's cards as they are written."""
    found: list[dict[str, object]] | None = tomllib.loads(text.removeprefix("\ufeff"))["vm"][vm].get("nic")
    return found
