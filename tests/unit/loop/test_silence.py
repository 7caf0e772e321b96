from worker.loop.silence import REPEAT_S, SilenceWatch
from worker.monitoring.concerns import SILENT_S


def test_brokers_that_answer_are_no_news() -> None:
    watch = SilenceWatch()
    assert [watch.look(now, now - 1) for now in range(100)] == [None] * 100
    assert not watch.is_silent


def test_silence_is_said_once_a_minute_and_so_is_its_end() -> None:
    watch, said = SilenceWatch(), []
    for now in range(150):
        if line := watch.look(float(now), heard_at=0.0):
            said.append((now, line))
    assert said == [
        (SILENT_S, "no broker has answered for 10 s"),
        (SILENT_S + REPEAT_S, "no broker has answered for 70 s"),
        (SILENT_S + 2 * REPEAT_S, "no broker has answered for 130 s"),
    ]
    assert watch.is_silent
    assert watch.look(150.0, heard_at=149.5) == "a broker answers again, after 150 s"
    assert not watch.is_silent
    assert watch.look(151.0, heard_at=150.5) is None
