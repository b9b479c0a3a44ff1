"""All keys of a lab file and of a profile in one table; reading, hints, schema and documentation come from it."""

from __future__ import annotations

from qemunet.config import impairkinds, kinds, secretkinds, vlankinds
from qemunet.config.spec import NicMode, Switch
from qemunet.config.tables import (
    ADOPTED,
    DGRAM,
    DIRECT,
    FROM_FIRMWARE,
    HOSTDEV,
    MACVTAP,
    MCAST,
    ON_BRIDGE,
    ON_NETWORK,
    PASST,
    POINT_TO_POINT,
    STREAM,
    TAP,
    USER,
    VDE,
    VHOST_USER,
    Key,
    Table,
    keyed,
)
from qemunet.model.guard import GuardLevel
from qemunet.model.nic import LinkState, MacvtapMode
from qemunet.model.vm import Accel, Firmware, NicBus

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qemunet.config.cablekeys import CABLE, NETNS
    from qemunet.config.expectkeys import EXPECT
    from qemunet.config.netkeys import DHCP, DHCP_SERVER, DNS, HOSTS, NAT_TABLE, NETWORK, PORT_PROFILE
    from qemunet.config.scriptkeys import LOGIN, SCRIPT
else:

    def __getattr__(name: str) -> Table:
        """Load the tables that not every lab has when they are first named (PEP 562)."""
        module = next((module for module, names in _ELSEWHERE.items() if name in names), None)
        if module is None:
            raise AttributeError(f"there is no table {name}")
        return getattr(__import__(f"qemunet.config.{module}", fromlist=["*"]), name)


__all__ = [
    "BOOT",
    "CABLE",
    "DHCP",
    "DHCP_SERVER",
    "DISK",
    "DNS",
    "EXPECT",
    "HOSTS",
    "LAB",
    "LOGIN",
    "MACHINE",
    "NAT_TABLE",
    "NETNS",
    "NETWORK",
    "NIC",
    "PORT_PROFILE",
    "PROFILE_TABLES",
    "SCRIPT",
    "VM",
    "Key",
    "Table",
    "json_schema",
    "sub_table",
]

LAB = Table(
    "[lab]",
    "What concerns the file as a whole.",
    keyed(Key("name", kinds.NAME, "the lab's name", "the file's stem", derived=True)),
)

VM = Table(
    "[vm.NAME]",
    "A guest. Without any [[vm.NAME.nic]] it gets one card in user mode; nic = [] is none.",
    keyed(
        Key("profile", kinds.TEXT, "hardware description: a name (`qemunet profiles`) or a path to a TOML file", "q35"),
        Key("memory", kinds.MEMORY, "main memory", "512M", profile=True),
        Key("cpus", kinds.whole(1, 255), "processors", "1", profile=True),
        Key("accel", kinds.choice(Accel), "what executes the guest; auto: KVM where it works", "auto", profile=True),
        Key(
            "hotplug-slots",
            kinds.whole(0, 128),
            "spare PCIe root ports: room kept for cards that are added over QMP",
            "8",
            profile=True,
        ),
        Key(
            "shared-memory",
            kinds.BOOL,
            "main memory that other programs may share, as cards in mode vhost-user need it",
            "true with such a card",
            profile=True,
            derived=True,
        ),
        Key(
            "user",
            kinds.USER,
            "whom QEMU runs as when root starts it: auto, a name, or UID:GID",
            "auto",
            profile=True,
            derived=True,
        ),
        Key("display", kinds.DISPLAY, "a screen: none, vnc=ADDR:N or gtk", "none", profile=True),
        Key(
            "qemu-args",
            kinds.TEXTS,
            "passed to QEMU untouched, last; with -S the guest waits for `qemunet qmp VM cont`",
            "[]",
            profile=True,
        ),
        Key(
            "agent",
            kinds.AGENT,
            "a port for an agent in the guest: true for qemunet's (`qemunet guest agent`), which the built-in guest "
            "always has, qemu for the QEMU guest agent",
            "false",
            profile=True,
        ),
        Key("depends", kinds.NAMES, "`up` starts it when these vms are ready", "none"),
        Key(
            "ready",
            kinds.READY,
            "when it is: dhcp, console=REGEX, tcp=PORT or script",
            "its script is done",
            derived=True,
        ),
        Key(
            "netns",
            kinds.NAME,
            "the `[netns.NAME]` that QEMU itself runs in, for what it opens there: cards in user mode, a screen",
            "the host's own",
        ),
        Key("script-file", kinds.PATH, "a file of steps, `[[script]]`, that come before those of the lab file", "none"),
        Key("secret", secretkinds.SECRETS, "what `{secret.NAME}` in its script stands for", "none"),
    ),
    tables=("boot", "machine", "login"),
    lists=("disk", "nic", "script"),
)

MACHINE = Table(
    "[vm.NAME.machine]",
    "The hardware itself, as a profile describes it; in a lab file only to differ from the profile.",
    keyed(
        Key("type", kinds.MACHINE, "QEMU's -machine type with its own options", "the profile's", profile=True),
        Key("nic-bus", kinds.choice(NicBus), "where cards are plugged", "the profile's", profile=True),
        Key("cpu-kvm", kinds.TEXT, "QEMU's -cpu under KVM", "host", profile=True),
        Key("cpu-tcg", kinds.TEXT, "QEMU's -cpu without KVM; empty: QEMU's default", "empty", profile=True),
    ),
)

BOOT = Table(
    "[vm.NAME.boot]",
    "What is booted: a kernel, the built-in guest, or what the firmware finds.",
    keyed(
        Key("kernel", kinds.PATH, "kernel that QEMU loads itself", "none"),
        Key("initrd", kinds.PATH, "its initial file system", "none", (DIRECT,)),
        Key("append", kinds.TEXT, "its command line", "empty", (DIRECT,)),
        Key("guest", kinds.words("guest", ("tiny",)), "the built-in test guest instead of a kernel", "none"),
        Key("order", kinds.ORDER, "where the firmware looks", "disk, network, cdrom", (FROM_FIRMWARE,)),
        Key("firmware", kinds.choice(Firmware), "what starts the machine", "bios"),
    ),
)

DISK = Table(
    "[[vm.NAME.disk]]",
    "A disk.",
    keyed(
        Key("file", kinds.PATH, "the image, or a block device"),
        Key(
            "format",
            kinds.words("format", ("qcow2", "raw")),
            "how it is written; never guessed from contents",
            "by suffix; qcow2 with size",
            derived=True,
        ),
        Key(
            "backing",
            kinds.PATHS,
            "the image below it, and those below that one; to be named where you may not read them",
            "as the image says",
            derived=True,
        ),
        Key("size", kinds.SIZE, "create the file, of this size, when it is not there"),
        Key(
            "bus",
            kinds.words("bus", ("virtio", "ide", "sata", "scsi")),
            "how it is attached",
            "virtio; a cdrom: ide, sata or scsi",
            profile=True,
            derived=True,
        ),
        Key("snapshot", kinds.BOOL, "throw away what the guest writes", "false"),
        Key("cdrom", kinds.BOOL, "it is a CD", "false"),
        Key("readonly", kinds.BOOL, "the guest may not write", "false"),
    ),
)

_TAPS = (TAP, ADOPTED)
NIC = Table(
    "[[vm.NAME.nic]]",
    "A network card.",
    keyed(
        Key(
            "id",
            kinds.NAME,
            "handle on the command line and QEMU's device id",
            "net0, net1 … in file order",
            derived=True,
        ),
        Key("mode", kinds.choice(NicMode), "what is behind it", "by its other keys, else user", derived=True),
        Key("network", kinds.NAME, "plug it into this network of the file", "", (ON_NETWORK,)),
        Key("bridge", kinds.LINK, "plug it into this existing bridge", "", (TAP,)),
        Key("address", kinds.INTERFACES, "addresses of the host on a point-to-point card", "none", (POINT_TO_POINT,)),
        Key("routes", kinds.SUBNETS, "what the host routes through the guest", "none", (POINT_TO_POINT,)),
        Key("parent", kinds.LINK, "the interface below a macvtap", "", (MACVTAP,)),
        Key(
            "macvtap",
            kinds.choice(MacvtapMode, "macvtap mode"),
            "how macvtaps of one parent see each other",
            "bridge",
            (MACVTAP,),
        ),
        Key(
            "host-macvlan",
            kinds.BOOL,
            "a macvlan of the host beside a macvtap in mode bridge: host and guest reach each other at `ip`",
            "false",
            (MACVTAP,),
        ),
        Key("model", kinds.TEXT, "the card: virtio, e1000, e1000e, rtl8139 …", "virtio", profile=True),
        Key("mac", kinds.MAC, "its address; auto: stable, made of machine, lab, vm and id", "auto", derived=True),
        Key("mac-prefix", kinds.MAC_PREFIX, "what an automatic address begins with", "52:54:00", profile=True),
        Key("link", kinds.choice(LinkState), "whether its cable is plugged in", "up", profile=True),
        Key(
            "queues",
            kinds.QUEUES,
            "pairs of queues (virtio); auto: one per processor, at most 8",
            "1",
            (TAP, MACVTAP, ADOPTED, VHOST_USER),
            profile=True,
        ),
        Key(
            "vhost",
            kinds.choice(Switch),
            "let the host's kernel move the packets (virtio)",
            "auto",
            (TAP, MACVTAP, ADOPTED),
            profile=True,
            derived=True,
        ),
        Key(
            "mtu",
            kinds.MTU,
            "largest packet: told to a virtio guest, set on a point-to-point tap",
            "that of its network",
            profile=True,
            derived=True,
        ),
        Key("boot-index", kinds.whole(0, 2**31 - 1), "its turn when the firmware looks for a system", "none"),
        Key(
            "acpi-index",
            kinds.whole(1, 16383),
            "its number, from which Linux guests make a name (eno1)",
            "1, 2 … in file order",
            derived=True,
        ),
        Key("ip", kinds.INTERFACES, "addresses that the guest is known to use; the built-in guest sets them", "none"),
        Key("gateway", kinds.IPS, "the guest's way out, likewise", "none"),
        Key("rate", kinds.RATE, "the most that passes it, as the guest sees it", "none", (TAP, MACVTAP)),
        Key(
            "impair",
            impairkinds.IMPAIR,
            "what a bad network does to its packets, each way: delay and jitter, and shares that are lost and so on",
            "none",
            (TAP, MACVTAP),
        ),
        Key(
            "guard",
            kinds.choice(GuardLevel, "level"),
            "what its guest may not send (docs/guards.md)",
            "off",
            (TAP, MACVTAP),
        ),
        Key(
            "port-isolation",
            kinds.BOOL,
            "cards of one bridge that have it do not reach each other, only the host and the others there",
            "that of its network",
            (ON_BRIDGE,),
            derived=True,
        ),
        Key(
            "vlan",
            vlankinds.VLAN,
            "the VLANs that it is in (docs/vlans.md): one, without tags, or several with tags",
            "that of every new port of the bridge: 1",
            (ON_BRIDGE,),
        ),
        Key(
            "port-profile",
            kinds.NAME,
            "the `[network.NETWORK.port-profile.NAME]` whose values it has where it says nothing itself",
            "none",
            (ON_NETWORK,),
        ),
        Key("ifname", kinds.IFNAME, "the name of its host side", "qn-VM-ID", (TAP, MACVTAP, ADOPTED), derived=True),
        Key("adopt", kinds.BOOL, "use the tap `ifname` that somebody else made, and leave it to him", "false", _TAPS),
        Key("ifup", kinds.PATH, "program to run when the host side is ready", "none", (TAP, MACVTAP, ADOPTED)),
        Key("ifdown", kinds.PATH, "program to run before the host side goes", "none", (TAP, MACVTAP, ADOPTED)),
        Key("listen", kinds.END, "where the other end finds it; of dgram, its own address", "", (STREAM, DGRAM)),
        Key("connect", kinds.END, "the other end, which listens", "", (STREAM, DGRAM)),
        Key("group", kinds.GROUP, "the multicast group, of which every card hears every other", "", (MCAST,)),
        Key("local", kinds.IP4, "an address of the interface by which the group is reached", "by the routes", (MCAST,)),
        Key(
            "path",
            kinds.PATH,
            "the control directory of the vde_switch, or the socket of the vhost-user backend",
            "",
            (VDE, VHOST_USER),
        ),
        Key("device", kinds.DEVICE, "the PCI device of the host that the guest gets", "", (HOSTDEV,)),
        Key("forward", kinds.FORWARDS, "ports of the host that lead into the guest", "none", (USER, PASST)),
        Key("restrict", kinds.BOOL, "nothing gets out", "false", (USER,)),
        Key("subnet", kinds.SLIRP_SUBNET, "network inside QEMU", "10.0.2.0/24", (USER,)),
        Key("hostname", kinds.HOSTNAME, "the name that DHCP gives to the guest", "none", (USER,)),
        Key(
            "dns",
            kinds.IP4,
            "address at which the guest finds a name server",
            "third of subnet; passt: that of the host",
            (USER, PASST),
            derived=True,
        ),
        Key("tftp", kinds.PATH, "directory that the guest can read by TFTP", "none", (USER,)),
        Key("bootfile", kinds.TEXT, "what the guest boots from there", "none", (USER,)),
    ),
)

_ELSEWHERE = {
    "cablekeys": ("CABLE", "NETNS"),
    "expectkeys": ("EXPECT",),
    "scriptkeys": ("LOGIN", "SCRIPT"),
    "netkeys": ("DHCP", "DHCP_SERVER", "DNS", "HOSTS", "NAT_TABLE", "NETWORK", "PORT_PROFILE"),
}
_OF_A_VM = {"boot": BOOT, "machine": MACHINE, "disk": DISK, "nic": NIC}
SUB_TABLES = (*_OF_A_VM, "login", "script", "nat", "dhcp", "dns", "hosts", "port-profile")
PROFILE_TABLES = {"machine": MACHINE, "vm": VM, "nic": NIC, "disk": DISK}


def sub_table(name: str) -> Table:
    """Return the table below one of the top, or a list of tables there, by its key."""
    if name in _OF_A_VM:
        return _OF_A_VM[name]
    from qemunet.config import netkeys, scriptkeys

    rarer = {"login": scriptkeys.LOGIN, "script": scriptkeys.SCRIPT, "nat": netkeys.NAT_TABLE, "dhcp": netkeys.DHCP}
    return {**rarer, "dns": netkeys.DNS, "hosts": netkeys.HOSTS, "port-profile": netkeys.PORT_PROFILE}[name]


def json_schema() -> dict[str, object]:
    """Return a JSON Schema (draft 2020-12) of lab files, for editors."""
    from qemunet.config.schema import lab_schema  # editors wait longer than guests

    return lab_schema()
