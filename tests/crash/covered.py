"""Which steps die in which crash test: each test says what it has seen, and `tests/house` that no step is missing."""

from __future__ import annotations

START = {
    *("AddAddress", "AddLink", "AddRoute", "AdoptTap", "AwaitQemu", "Claim", "CreateImage", "LoadTable", "OpenFile"),
    *("OpenMacvtap", "OpenOverlay", "OpenSocket", "OpenTap", "Reserve", "Resume", "RunHook", "SetCarrier", "SetLink"),
    *("SetGuestLink", "SetMaster", "SetOffload", "SetSysctl", "StartDaemon", "StartQemu", "WriteFile"),
}
TAKING_BACK = {
    *("DelGroup", "DelLink", "DelRoute", "DropTable", "EndDaemon", "EndQemu", "RemoveFile", "RemoveSocket"),
    *("Unclaim", "Unreserve"),
}
FAILED_START = {"RemoveImage"}
WIRING = {"AddNetns", "DelNetns", "In", "NameNetns", "PinBridge", "UnnameNetns"}
IN_A_NAMESPACE = {"In", "Limit", "LoadFile", "OpenTap", "StartQemu"}
UPLINKS = {"ChangePort", "PlugPort", "PutAddress", "PutRoute", "TakeAddress", "TakeRoute", "UnplugPort"}
LIVE = {
    "add-tap": {"AddCard", "AddNetdev"},
    "del": {"DelNetdev"},
    "move": {"SetMaster"},
    "forwards": {"SetForwards"},
}
FAILED_LIVE = {"DelCard"}
APPLY = {"DelAddress", "Reconfigure"}
PORT = {"Divert", "Limit", "SetPort", "Undivert", "Unlimit"}
MACVLAN = {"AddNeighbour", "DelNeighbour"}
FULL_KERNEL = {"FilterVlans", "Impair", "SetVlans", "Unimpair"}  # in `make test-in-guest`

EVERY = set().union(
    *(START, TAKING_BACK, FAILED_START, WIRING, IN_A_NAMESPACE, UPLINKS, *LIVE.values(), FAILED_LIVE, APPLY),
    *(PORT, MACVLAN, FULL_KERNEL),
)
