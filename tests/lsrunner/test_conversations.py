"""Which session a conversation belongs to."""

from hypothesis import given
from hypothesis import strategies as st

from services.events.turn import Message, Role
from services.lsrunner.conversations import Begin, Continue, Conversations, told_from_the_start

TEXTS = st.text(max_size=5)


def said(*texts: str, system: str | None = None) -> tuple[Message, ...]:
    """User and assistant in turn, a user's message first."""
    spoken = tuple(Message(role=(Role.USER, Role.ASSISTANT)[n % 2], text=text) for n, text in enumerate(texts))
    return ((Message(role=Role.SYSTEM, text=system),) if system else ()) + spoken


def test_a_follow_up_goes_on_in_its_session_with_the_new_message_only():
    """The client sent everything; the session knows the rest."""
    subject: Conversations[str] = Conversations()
    first = said("hello")
    assert subject.claim(first) == Begin(text="hello")
    subject.answered(first, "hi there", "S")
    assert subject.claim(said("hello", "hi there", "again")) == Continue(session="S", text="again")


def test_white_space_around_an_answer_does_not_matter():
    """Clients trim what they send back."""
    subject: Conversations[str] = Conversations()
    subject.answered(said("hello"), "\nhi there \n", "S")
    assert isinstance(subject.claim(said("hello", "hi there", "again")), Continue)


def test_an_answer_that_was_not_given_here_begins_a_new_session():
    """An edited history is another conversation."""
    subject: Conversations[str] = Conversations()
    subject.answered(said("hello"), "hi there", "S")
    assert isinstance(subject.claim(said("hello", "I never said that", "again")), Begin)


def test_other_instructions_begin_a_new_session():
    """The system message belongs to the conversation."""
    subject: Conversations[str] = Conversations()
    subject.answered(said("hello", system="be brief"), "hi", "S")
    assert isinstance(subject.claim(said("hello", "hi", "again", system="be long")), Begin)
    assert isinstance(subject.claim(said("hello", "hi", "again", system="be brief")), Continue)


def test_a_session_is_continued_once():
    """The same follow-up again is a new conversation: the session has moved on."""
    subject: Conversations[str] = Conversations()
    subject.answered(said("hello"), "hi", "S")
    assert isinstance(subject.claim(said("hello", "hi", "again")), Continue)
    assert isinstance(subject.claim(said("hello", "hi", "again")), Begin)


def test_several_new_messages_of_the_user_are_said_together():
    """Some clients split what they send."""
    subject: Conversations[str] = Conversations()
    subject.answered(said("hello"), "hi", "S")
    follow_up = (*said("hello", "hi", "one"), Message(role=Role.USER, text="two"))
    assert subject.claim(follow_up) == Continue(session="S", text="one\n\ntwo")


def test_the_least_recently_answered_is_forgotten_first():
    """A bound on what is kept, and word of what is not any more."""
    subject: Conversations[str] = Conversations(limit=2)
    assert subject.answered(said("a"), "1", "A") == ()
    assert subject.answered(said("b"), "2", "B") == ()
    assert subject.answered(said("c"), "3", "C") == ("A",)
    assert isinstance(subject.claim(said("a", "1", "more")), Begin)
    assert isinstance(subject.claim(said("b", "2", "more")), Continue)


def test_a_second_session_with_the_same_words_replaces_the_first():
    """Two clients said and heard the same; one of the sessions is enough."""
    subject: Conversations[str] = Conversations()
    subject.answered(said("a"), "1", "A")
    assert subject.answered(said("a"), "1", "B") == ("A",)
    assert len(subject) == 1


def test_a_new_session_is_told_what_was_said_before():
    """With the parts named, and the message to answer at the end."""
    assert told_from_the_start(said("hello", "hi", "and now?", system="be brief")) == (
        "[Instructions for this conversation]\n\nbe brief\n\n"
        "[The conversation so far, as context; it needs no answer]\n\nUser: hello\n\nAssistant: hi\n\n"
        "[The message to answer]\n\nand now?"
    )


def test_a_first_prompt_is_told_as_it_is():
    """Nothing is put around it."""
    assert told_from_the_start(said("hello")) == "hello"


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=8), st.integers(1, 4))
def test_a_conversation_that_is_only_followed_up_has_one_session(exchanges, limit):
    """However long it gets, and whatever is said in it."""
    subject: Conversations[int] = Conversations(limit)
    history: tuple[Message, ...] = ()
    for n, (question, answer) in enumerate(exchanges):
        messages = (*history, Message(role=Role.USER, text=question))
        place = subject.claim(messages)
        assert isinstance(place, Begin) if n == 0 else place == Continue(session=7, text=question)
        subject.answered(messages, answer, 7)
        history = (*messages, Message(role=Role.ASSISTANT, text=answer))
        assert len(subject) == 1


@given(st.lists(st.tuples(st.lists(TEXTS, min_size=1, max_size=4), TEXTS), max_size=30), st.integers(1, 5))
def test_no_session_is_in_two_places_and_none_beyond_the_limit(turns, limit):
    """What is claimed is not there any more; what is forgotten is told exactly once."""
    subject: Conversations[int] = Conversations(limit)
    held: set[int] = set()
    for n, (texts, answer) in enumerate(turns):
        messages = said(*texts[: len(texts) - (1 - len(texts) % 2)])
        place = subject.claim(messages)
        session = place.session if isinstance(place, Continue) else n
        if isinstance(place, Continue):
            assert session in held
            held.discard(session)
        for forgotten in subject.answered(messages, answer, session):
            held.discard(forgotten)
        held.add(session)
        assert len(subject) == len(held) <= limit
