"""What is remembered of places: which were left last, and which cards their guests may not have yet."""

from __future__ import annotations

from qemunet.live.seats import Seats


def test_places_are_known_in_the_order_in_which_they_were_left() -> None:
    """One that is left again comes last again; each guest has its own."""
    seats = Seats()
    for slot in ("rp.1", "rp.0", "rp.1"):
        seats.leave("a", "net0", slot)
    seats.leave("b", "net0", "rp.7")
    assert (seats.left("a"), seats.left("b"), seats.left("c")) == (("rp.0", "rp.1"), ("rp.7",), ())


def test_a_place_is_as_new_when_a_driver_has_a_card_there() -> None:
    """Nothing that was asked of the guest before can come after that."""
    seats = Seats()
    seats.leave("a", "net0", "rp.0")
    seats.settle("a", "d", seats.sit("a", "d", "rp.0"), taken=True)
    assert seats.left("a") == ()
    assert not seats.sit("a", "e", "rp.0").second_hand


def test_a_place_whose_card_no_driver_has_taken_stays_second_hand() -> None:
    seats = Seats()
    seats.leave("a", "net0", "rp.0")
    newcomer = seats.sit("a", "d", "rp.0")
    assert newcomer.second_hand
    seats.settle("a", "d", newcomer)
    assert seats.sit("a", "e", "rp.0").second_hand
    assert not seats.sit("a", "f", "rp.1").second_hand


def test_a_place_may_be_said_to_be_left_when_the_next_card_sits_there() -> None:
    """QEMU gives it away before it says so; what a card itself leaves is not that."""
    seats = Seats()
    newcomer, other = seats.sit("a", "d", "rp.0"), seats.sit("a", "e", "rp.1")
    seats.leave("a", "d", "rp.0")
    assert not newcomer.second_hand
    seats.leave("a", "net0", "rp.0")
    assert (newcomer.second_hand, other.second_hand) == (True, False)


def test_who_waited_for_an_earlier_card_does_not_settle_the_later_one() -> None:
    seats = Seats()
    earlier, later = seats.sit("a", "d", "rp.0"), seats.sit("a", "d", "rp.1")
    seats.settle("a", "d", earlier)
    assert seats.newcomer("a", "d") is later


def test_a_guest_that_begins_anew_has_no_past() -> None:
    seats = Seats()
    for vm in ("a", "b"):
        seats.leave(vm, "net0", "rp.0")
        seats.sit(vm, "d", "rp.0").rests = True
    seats.forget("a")
    assert (seats.left("a"), seats.newcomer("a", "d"), seats.resting("a")) == ((), None, [])
    assert (seats.left("b"), seats.resting("b")) == (("rp.0",), ["d"])
