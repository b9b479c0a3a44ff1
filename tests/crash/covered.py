"""Which steps die in which crash test: each test says what it has seen, and `tests/house` that no step is missing."""

from __future__ import annotations

ALONE = "files, hooks and cards that stand alone"
START = {
    ALONE: {
        *("AddAddress", "AddLink", "AddRoute", "AwaitQemu", "Claim", "CreateImage", "LoadTable", "OpenFile"),
        *("OpenMacvtap", "OpenOverlay", "OpenTap", "Resume", "RunHook", "SetLink", "SetSysctl", "StartQemu"),
    },
    "networks without services": {"SetCarrier", "SetGuestLink"},
    "a network with services": {"Reserve", "SetMaster", "SetOffload", "StartDaemon", "WriteFile"},
    "what others made, and each other": {"AdoptTap", "OpenSocket"},
}
TAKING_BACK = {
    ALONE: {"DelLink", "DelRoute", "DropTable", "EndQemu", "Unclaim"},
    "networks without services": {"DelGroup"},
    "a network with services": {"EndDaemon", "RemoveFile", "Unreserve"},
    "what others made, and each other": {"RemoveSocket"},
}
FAILED_START = {ALONE: {"RemoveImage"}}
WIRING = {"AddNetns", "DelNetns", "In", "NameNetns", "PinBridge", "UnnameNetns"}
IN_A_NAMESPACE = {"In", "Limit", "LoadFile", "OpenTap", "StartQemu"}
UPLINKS = {"ChangePort", "PlugPort", "PutAddress", "PutRoute", "TakeAddress", "TakeRoute", "UnplugPort"}
LIVE = {
    "add-tap": {"AddCard", "AddNetdev"},
    "del": {"DelNetdev"},
    "move": {"SetMaster"},
    "forwards": {"SetForwards"},
    "add-vhost-user": {"AddChardev"},
}
FAILED_LIVE = {"add-tap": {"DelCard"}, "add-vhost-user": {"DelChardev"}}
APPLY = {"DelAddress", "Reconfigure"}
PORT = {"Divert", "Limit", "SetPort", "Undivert", "Unlimit"}
MACVLAN = {"AddNeighbour", "DelNeighbour"}
FULL_KERNEL = {"FilterVlans", "Impair", "SetVlans", "Unimpair"}  # in `make test-in-guest`

EVERY = set().union(
    *(one for lists in (START, TAKING_BACK, FAILED_START, LIVE, FAILED_LIVE) for one in lists.values()),
    *(WIRING, IN_A_NAMESPACE, UPLINKS, APPLY),
    *(PORT, MACVLAN, FULL_KERNEL),
)
