"""The keys of a network and of the tables below it."""

from __future__ import annotations

from qemunet.config import impairkinds, kinds, netkinds, vlankinds
from qemunet.config.tables import (
    BRIDGE,
    HOST_ON_IT,
    ISOLATED,
    MACVTAP,
    NAT,
    OWN_BRIDGE,
    PORTS,
    PRIVATE,
    ROUTED,
    Key,
    Table,
    keyed,
)
from qemunet.model.guard import GuardLevel
from qemunet.model.network import HostSide, NetworkMode
from qemunet.model.nic import MacvtapMode

NETWORK = Table(
    "[network.NAME]",
    "A switch that cards plug into.",
    keyed(
        Key(
            "mode",
            kinds.choice(NetworkMode),
            "private: guests only; isolated: the host too, but no way out; nat: out with the host's address; "
            "routed: out with their own; open: the same, without a rule of ours; bridge: an existing bridge, or one of "
            "its own with `ports`; "
            "macvtap: no bridge, each card is a macvtap on `parent`",
            "isolated",
        ),
        Key(
            "bridge",
            kinds.LINK,
            "interface name of the bridge; in mode bridge without ports, of the existing one",
            "qn-NAME",
            (OWN_BRIDGE, BRIDGE),
            derived=True,
        ),
        Key(
            "ports",
            netkinds.PORT_LIST,
            "interfaces of this host that are plugged into the bridge, which is made for that; each is put back "
            "afterwards as it was",
            "none",
            (BRIDGE,),
        ),
        Key(
            "port-vlan",
            vlankinds.PORT_VLANS,
            "the VLANs of ports, with vlan-filtering, as of a card",
            "1 for each",
            (PORTS,),
        ),
        Key(
            "move-address",
            kinds.BOOL,
            "the addresses and routes of the port that carries them move to the bridge, and back afterwards",
            "false",
            (PORTS,),
        ),
        Key(
            "address",
            netkinds.ADDRESSES,
            "addresses of the host on it; auto: one in an IPv4 network that is free here",
            "none",
            (HOST_ON_IT, PORTS),
        ),
        Key(
            "host",
            kinds.choice(HostSide, "place"),
            "where these are: on the bridge, at the end of a cable into it (veth), or nowhere (none)",
            "bridge",
            (HOST_ON_IT, PORTS),
        ),
        Key("uplink", kinds.LINK, "the only interface by which guests get out", "any", (NAT, ROUTED)),
        Key(
            "forward",
            netkinds.NETWORK_FORWARDS,
            "ports of the host that lead to a guest of this file whose card has an `ip`, or to an address",
            "none",
            (NAT, ROUTED),
        ),
        Key(
            "host-services",
            netkinds.SERVICE_LIST,
            'what guests reach on the host: dhcp, dns, icmp, "tcp:3128", "udp:69", or all',
            "what is served, and icmp; all in mode isolated where nothing is",
            (ISOLATED, NAT, ROUTED),
            derived=True,
        ),
        Key("parent", kinds.LINK, "the interface below the macvtaps", "", (MACVTAP,)),
        Key(
            "macvtap",
            kinds.choice(MacvtapMode, "macvtap mode"),
            "how its cards see each other",
            "bridge",
            (MACVTAP,),
        ),
        Key(
            "host-macvlan",
            kinds.BOOL,
            "a macvlan of the host beside them: it and the guests reach each other at the cards' `ip`",
            "false",
            (MACVTAP,),
        ),
        Key("stp", kinds.BOOL, "spanning tree protocol", "false", (OWN_BRIDGE,)),
        Key(
            "forward-delay",
            kinds.SECONDS,
            "how long a new port waits; with stp 2s to 30s",
            "0, with stp 2s",
            (OWN_BRIDGE,),
        ),
        Key("ageing", kinds.SECONDS, "how long an address is remembered", "300s", (OWN_BRIDGE,)),
        Key(
            "mtu",
            kinds.MTU,
            "largest packet, also of its ports",
            "1500; with ports, the least of theirs",
            (OWN_BRIDGE,),
        ),
        Key(
            "port-isolation",
            kinds.BOOL,
            "that of its cards: none of them reaches another",
            "false",
            (OWN_BRIDGE, BRIDGE),
        ),
        Key("vlan-filtering", kinds.BOOL, "it tells VLANs apart (docs/vlans.md)", "false", (OWN_BRIDGE,)),
        Key(
            "host-vlan",
            vlankinds.NUMBER,
            "the VLAN that the host is in, with vlan-filtering",
            "1",
            (HOST_ON_IT, PORTS),
        ),
        Key(
            "mac",
            kinds.MAC,
            "the bridge's own address; auto: stable, with move-address the uplink's",
            "auto",
            (OWN_BRIDGE,),
            derived=True,
        ),
        Key("keep", kinds.BOOL, "it stays when its last guest stops", "false", (OWN_BRIDGE,)),
        Key(
            "netns",
            kinds.NAME,
            "the `[netns.NAME]` that its switch is in: the bridge, and the host's side of every card on it",
            "the host's own",
            (PRIVATE, ISOLATED),
        ),
        Key(
            "external",
            kinds.BOOL,
            "true: another lab makes it, and has it up; here it is only used, and has no other key",
            "false",
        ),
    ),
    tables=("nat", "dhcp", "dns"),
    lists=("hosts",),
    named=("port-profile",),
)

PORT_PROFILE = Table(
    "[network.NAME.port-profile.NAME]",
    'Values for the cards of the network that say port-profile = "NAME". What such a card says itself is in place of '
    "what the profile says.",
    keyed(
        Key("guard", kinds.choice(GuardLevel, "level"), "as of a card", "none"),
        Key("rate", kinds.RATE, "as of a card", "none"),
        Key("impair", impairkinds.IMPAIR, "as of a card", "none"),
        Key("port-isolation", kinds.BOOL, "as of a card; not for macvtaps", "none"),
        Key("vlan", vlankinds.VLAN, "as of a card, on a bridge that tells VLANs apart", "none"),
    ),
)

NAT_TABLE = Table(
    "[network.NAME.nat]",
    "How the guests' packets look outside.",
    keyed(
        Key("ports", netkinds.PORTS, "the ports that they come from", "1024-65535"),
        Key("source", netkinds.IP, "the address that they come from, one of the host's", "that of the way out"),
    ),
    belongs=(NAT,),
)

DHCP = Table(
    "[network.NAME.dhcp]",
    "Addresses for the guests, by DHCP and by IPv6's router advertisements; a card's `ip` is reserved for it. Or "
    "dhcp = true or false: the default is true in the modes nat, routed and open if the network has an IPv4 address, "
    "and false in mode isolated: there the built-in guest goes on to set its `ip` itself.",
    keyed(
        Key(
            "server",
            kinds.NAME,
            "the `[dhcp-server.NAME]` that serves this network, over the host's cable into it; several networks may "
            "name the same",
            "one for this network alone",
        ),
        Key(
            "range",
            netkinds.RANGE,
            "first and last address to give out; two more for IPv6, else guests make their own there",
            "the upper half of the network, but not the host's",
            derived=True,
        ),
        Key("lease", netkinds.LEASE, "how long an address is lent; 2m or more", "1h"),
        Key("gateway", kinds.BOOL, "the host is the guests' way out", "true; in mode isolated false", derived=True),
        Key(
            "options",
            netkinds.OPTIONS,
            "more to tell: an option's number, or dnsmasq's name for it, and its value",
            "{}",
        ),
        Key("boot", netkinds.BOOT, "what boots from the network: file, and tftp (a directory) or server", "none"),
    ),
    belongs=(HOST_ON_IT,),
    default="true or false, by the mode",
)

DNS = Table(
    "[network.NAME.dns]",
    "A name server on the host for the guests, which knows them by their names; or dns = true or false. It is there "
    "where DHCP is.",
    keyed(
        Key("domain", kinds.HOSTNAME, "the domain that the guests are in", "none"),
        Key("forwarders", kinds.IPS, "name servers that know the rest of the world", "the host's"),
        Key("hosts", netkinds.NAMES, "more names, with an address or a list of them each", "{}"),
        Key("local-only", kinds.BOOL, "nothing else is known", "false; in mode isolated true", derived=True),
    ),
    belongs=(HOST_ON_IT,),
    default="as dhcp",
)

HOSTS = Table(
    "[[network.NAME.hosts]]",
    "A reservation for somebody who is no card of this file; a list of inline tables will do as well.",
    keyed(
        Key("mac", netkinds.HOST_MAC, "who it is for"),
        Key("ip", netkinds.IP, "the address; it may be in dhcp.range or not"),
        Key("name", kinds.HOSTNAME, "the name", "none"),
    ),
    belongs=(HOST_ON_IT,),
)

DHCP_SERVER = Table(
    "[dhcp-server.NAME]",
    'One server for several networks: those that say dhcp = { server = "NAME" }. It listens at the end of the host\'s '
    "cable into each of them, so their bridges stay bare. It is up as long as one of them is. It answers names too, "
    "except on a network with dns = false, and knows the guests of all of them.",
    keyed(
        Key("domain", kinds.HOSTNAME, "the domain that the guests are in", "none"),
        Key("forwarders", kinds.IPS, "name servers that know the rest of the world", "the host's"),
        Key(
            "local-only",
            kinds.BOOL,
            "nothing else is known",
            "false; true if all its networks are in mode isolated",
            derived=True,
        ),
    ),
)
