"""Go-back-N: whatever the network and the kills do, the ledger gets every record once and in order."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from services.accountant.attribution import Attribution
from services.accountant.intake import Intake
from services.bus.delivery import ExchangeBatch, HeldEpoch
from services.bus.sending import SendWindow
from services.ledger.entry import Source

WINDOW = 5
SOURCE = Source("mitm-0", "e" * 32)


def test_what_exists_is_sent_up_to_the_window() -> None:
    """No more is under way than the sockets hold."""
    window = SendWindow(window=WINDOW)
    window.extend(8)
    assert window.sendable() == 5
    window.sent(5, 0.0)
    assert window.sendable() == 0
    window.marked(2, 0.1)
    assert window.sendable() == 2
    assert repr(window) == "<SendWindow mark 2 next 6 last 8>"


def test_a_mark_that_stands_still_puts_the_pointer_back() -> None:
    """After the stall time and not before; progress begins the wait anew."""
    window = SendWindow(window=WINDOW, stall_s=0.2)
    window.extend(3)
    window.sent(3, 10.0)
    assert not window.go_back_if_stalled(10.19)
    window.marked(1, 10.19)
    assert not window.go_back_if_stalled(10.3)
    assert window.go_back_if_stalled(10.4)
    assert (window.next, window.resends) == (2, 1)


def test_nothing_under_way_is_never_stalled() -> None:
    """A long silence is no reason to send anything again."""
    window = SendWindow(stall_s=0.2)
    window.extend(1)
    assert not window.go_back_if_stalled(1000.0)
    window.sent(1, 1000.0)
    assert not window.go_back_if_stalled(1000.1)
    window.marked(1, 1000.15)
    assert window.is_settled
    assert not window.go_back_if_stalled(2000.0)


def test_a_mark_that_goes_backwards_is_believed() -> None:
    """An older ledger was restored: sending starts again from there."""
    window = SendWindow(window=WINDOW)
    window.extend(9)
    window.marked(9, 0.0)
    window.marked(3, 1.0)
    assert (window.next, window.sendable(), window.unacknowledged) == (4, 5, 6)


@pytest.mark.parametrize(("said", "taken"), [(99, 4), (-5, 0)])
def test_a_mark_beyond_what_exists_is_bounded(said: int, taken: int) -> None:
    """Nonsense on the bus must not make us drop records that come later."""
    window = SendWindow()
    window.extend(4)
    window.marked(said, 0.0)
    assert window.mark == taken
    window.extend(5)
    assert window.sendable() == 5 - taken


class Delivery(RuleBasedStateMachine):
    """A publisher's window and the accountant's intake with a network between them that loses and repeats."""

    @initialize()
    def begin(self) -> None:
        self.now = 0.0
        self.journal: list[int] = []
        self.ledger: list[int] = []
        self.older: list[int] = []
        self.batches: list[ExchangeBatch] = []
        self.marks: list[int] = []
        self.restart_publisher()
        self.restart_accountant()

    @rule(count=st.integers(1, 4))
    def records_are_journaled(self, count: int) -> None:
        self.journal += range(len(self.journal) + 1, len(self.journal) + 1 + count)
        self.window.extend(len(self.journal))

    @rule(limit=st.integers(1, 4))
    def the_publisher_sends(self, limit: int) -> None:
        count = min(limit, self.window.sendable())
        if count:
            first = self.window.next
            records = self.journal[first - 1 : first - 1 + count]
            self.batches.append(
                ExchangeBatch(publisher=SOURCE.publisher, epoch=SOURCE.epoch, first_seq=first, records=records)
            )
            self.window.sent(count, self.now)

    @rule(which=st.integers(0, 50), keep=st.booleans())
    def a_batch_arrives(self, which: int, keep: bool) -> None:
        """Any of those under way: out of order, and again later when it is kept."""
        if self.batches:
            place = which % len(self.batches)
            self.intake.take(self.batches[place] if keep else self.batches.pop(place))

    @rule()
    def everything_under_way_is_lost(self) -> None:
        self.batches.clear()
        self.marks.clear()

    @rule(count=st.integers(1, 6))
    def the_ledger_commits(self, count: int) -> None:
        for arrival in self.intake.hand_out(count):
            assert arrival.seq == len(self.ledger) + 1, "taken twice, or out of order"
            self.ledger.append(arrival.seq)
        self.intake.committed({SOURCE: len(self.ledger)})
        self.marks.append(len(self.ledger))

    @rule()
    def a_commit_fails(self) -> None:
        self.intake.hand_out(3)
        self.intake.reset({SOURCE: len(self.ledger)})

    @rule(which=st.integers(0, 50))
    def a_mark_arrives(self, which: int) -> None:
        """Marks of one connection keep their order; those before may have been lost."""
        if self.marks:
            place = which % len(self.marks)
            self.window.marked(self.marks[place], self.now)
            del self.marks[: place + 1]

    @rule()
    def a_hello_is_answered(self) -> None:
        self.intake.greet(SOURCE.publisher, [HeldEpoch(epoch=SOURCE.epoch, first=1, last=len(self.journal))])
        self.marks.append(self.intake.marks(SOURCE.publisher, [SOURCE.epoch])[SOURCE.epoch])

    @rule(seconds=st.sampled_from([0.05, 0.15, 0.3]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.window.go_back_if_stalled(self.now)

    @rule()
    def restart_publisher(self) -> None:
        """The epoch becomes an older one: the same records, a new window."""
        self.window = SendWindow(window=WINDOW)
        self.window.extend(len(self.journal))
        self.marks.clear()

    @rule()
    def restart_accountant(self) -> None:
        self.intake = Intake(Attribution(), pending_max=4)
        self.intake.reset({SOURCE: len(self.ledger)})
        self.marks.clear()

    @rule()
    def the_ledger_is_copied(self) -> None:
        self.older = list(self.ledger)

    @rule()
    def an_older_ledger_is_restored(self) -> None:
        self.ledger = list(self.older)
        self.restart_accountant()

    @invariant()
    def the_ledger_is_a_beginning_of_the_journal(self) -> None:
        if hasattr(self, "ledger"):
            assert self.ledger == self.journal[: len(self.ledger)]

    def teardown(self) -> None:
        """When the faults stop, everything arrives."""
        if not hasattr(self, "ledger"):
            return
        for _ in range(4 * len(self.journal) + 4):
            self.now += 0.1
            self.a_hello_is_answered()
            self.a_mark_arrives(10**6)
            self.window.go_back_if_stalled(self.now)
            self.the_publisher_sends(4)
            while self.batches:
                self.intake.take(self.batches.pop(0))
            self.the_ledger_commits(6)
            self.a_mark_arrives(10**6)
        assert self.ledger == self.journal
        assert self.window.is_settled


Delivery.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestDelivery = Delivery.TestCase
