"""The commands that there are, which module has each, and what each does in one line; importing it costs nothing."""

from __future__ import annotations

# Name of a command (two words for one of a group): the module in this package, and what it does.
COMMANDS = {
    "run": ("start", "start the vms of a lab file, with their networks"),
    "up": ("up", "start what a lab lacks, in its order, and wait until it is ready"),
    "stop": ("stop", "stop vms: power button, then quit, then kill"),
    "down": ("down", "end all of a lab, in the reverse of its order"),
    "ps": ("look", "list what runs"),
    "status": ("look", "show a vm or a lab: every card and what is behind it"),
    "nic list": ("look", "list the cards of a vm"),
    "nic add": ("nic", "plug a card into a vm while it runs"),
    "nic del": ("nic", "unplug a card"),
    "nic set": ("nic", "change a card: its cable, its network, its forwards, its rate"),
    "nic stats": ("traffic", "show what went through the cards of a vm"),
    "nic capture": ("traffic", "capture the packets of a card, as pcap"),
    "net up": ("netup", "bring networks, cables and namespaces up without vms, or hold them"),
    "net down": ("netup", "take down networks that no guest is on"),
    "net list": ("nets", "list the networks that are up"),
    "net show": ("nets", "show one network and who is on it"),
    "net leases": ("nets", "list the addresses that networks have lent, and to whom"),
    "cable list": ("cable", "list the cables that are there"),
    "cable pull": ("cable", "pull cables out: both ends lose their carrier"),
    "cable plug": ("cable", "plug cables in again"),
    "cable add": ("cable", "join two places by a cable of no lab file"),
    "cable del": ("cable", "take cables away"),
    "netns list": ("netns", "list the namespaces of labs that are up"),
    "exec": ("enter", "run a command in a guest, or in a namespace of a lab"),
    "cp": ("copy", "copy files and directories into a guest, or out of it"),
    "verify": ("verify", "try what a lab file expects: who reaches whom, and who must not"),
    "console": ("terminal", "attach to a vm's serial console"),
    "logs": ("terminal", "print what a vm's console, or its QEMU, has said"),
    "events": ("events", "print what happens to the guests, one JSON object a line"),
    "qmp": ("events", "send a QMP command to a vm's QEMU"),
    "apply": ("apply", "make what runs match its lab file"),
    "plan": ("lab", "print every step of a start; touches nothing"),
    "check": ("lab", "validate a lab file; touches nothing"),
    "show": ("lab", "print a lab with every default spelled out"),
    "profiles": ("helpers", "list the hardware profiles"),
    "schema": ("helpers", "print the JSON Schema of the lab file, for editors"),
    "mac": ("helpers", "print unused Ethernet addresses for guests"),
    "guest build": ("helpers", "build the built-in test guest"),
    "guest agent": ("helpers", "print the agent by which `exec` and `cp` reach any Linux guest"),
    "gc": ("stop", "finish what a killed process left"),
    "ifup": ("ifup", "put a tap that QEMU made on its bridge (-netdev tap,script=)"),
    "ifdown": ("ifup", "take a tap off its bridge (-netdev tap,downscript=)"),
    "completion": ("completion", "print the completion script for a shell"),
}

GROUPS = {
    "nic": "cards",
    "net": "networks",
    "cable": "cables",
    "netns": "namespaces",
    "guest": "the built-in test guest",
}


def overview() -> str:
    """Return what `qemunet --help` prints."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {summary}" for name, (_, summary) in COMMANDS.items()]
    return "\n".join(
        (
            "usage: qemunet COMMAND [options]",
            "",
            "QEMU guests and their networks from one file, taken back when they stop.",
            "",
            *lines,
            "",
            "`qemunet COMMAND --help` says more. `--version` prints the version.",
            "",
        )
    )


def words(group: str) -> list[str]:
    """Return the second words that a group takes; for "" the first words of all commands."""
    if not group:
        return list(dict.fromkeys(name.split()[0] for name in COMMANDS))
    return [name.split()[1] for name in COMMANDS if name.startswith(f"{group} ")]
