import os
import signal
import time

import pytest

from simple_diffusion_lm.runs.signals import Signals, Stop


def tell(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_is_noted_and_what_can_be_left_is_left(number):
    done = []

    def work():
        tell(number)
        time.sleep(0.1)
        done.append("to the end")

    with Signals() as signals:
        tell(number)  # in a step: it goes on
        assert signals.seen == [number]
        signals.leaving_at_once(work)
        assert done == []
        assert signals.seen == [number, number]
        tell(number)  # and afterwards it is noted alone
    assert Stop(number).exit_code == 128 + number


def test_what_goes_on_after_any_failure_of_its_own_is_left_all_the_same():
    done = []

    def compiler():
        try:
            tell(signal.SIGTERM)
            time.sleep(0.1)
        except Exception:
            done.append("took it for a failure")
        done.append("went on")

    with Signals() as signals:
        signals.leaving_at_once(compiler)
        assert signals.seen == [signal.SIGTERM]
    assert done == []


def test_work_that_fails_says_so_and_handlers_come_back():
    before = signal.getsignal(signal.SIGTERM)
    with Signals() as signals, pytest.raises(ZeroDivisionError):
        signals.leaving_at_once(lambda: 1 / 0)
    assert not signals.may_leave
    assert signal.getsignal(signal.SIGTERM) is before
