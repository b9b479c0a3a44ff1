"""Every change to the host that there is, as one type."""

from __future__ import annotations

from qemunet.steps import addresses, cards, daemons, files, guests, links, ports, rates, sockets, spaces, tables, vlans

Step = (
    links.AddLink
    | links.DelLink
    | links.DelGroup
    | links.SetLink
    | links.SetMaster
    | links.SetPort
    | vlans.FilterVlans
    | vlans.SetVlans
    | links.PinBridge
    | ports.PlugPort
    | ports.UnplugPort
    | ports.ChangePort
    | ports.PutAddress
    | ports.TakeAddress
    | ports.PutRoute
    | ports.TakeRoute
    | links.OpenTap
    | sockets.OpenSocket
    | sockets.RemoveSocket
    | links.AdoptTap
    | links.OpenMacvtap
    | rates.Limit
    | rates.Unlimit
    | rates.Impair
    | rates.Unimpair
    | rates.Divert
    | rates.Undivert
    | addresses.AddAddress
    | addresses.DelAddress
    | addresses.AddRoute
    | addresses.DelRoute
    | addresses.AddNeighbour
    | addresses.DelNeighbour
    | addresses.SetSysctl
    | tables.LoadTable
    | tables.DropTable
    | daemons.SetOffload
    | daemons.StartDaemon
    | daemons.EndDaemon
    | daemons.Reconfigure
    | daemons.Reserve
    | daemons.Unreserve
    | files.Claim
    | files.Unclaim
    | files.WriteFile
    | files.RemoveFile
    | files.CreateImage
    | files.RemoveImage
    | files.OpenFile
    | files.LoadFile
    | files.OpenOverlay
    | guests.RunHook
    | guests.StartQemu
    | guests.EndQemu
    | guests.AwaitQemu
    | guests.Resume
    | cards.AddNetdev
    | cards.DelNetdev
    | cards.AddChardev
    | cards.DelChardev
    | cards.AddCard
    | cards.DelCard
    | cards.SetGuestLink
    | cards.SetCarrier
    | cards.SetForwards
    | spaces.AddNetns
    | spaces.DelNetns
    | spaces.NameNetns
    | spaces.UnnameNetns
    | spaces.In
)
