"""What can be done to a server of one's own. Every method blocks until it is done."""

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from trunkline_ops.servers.containers import Container
from trunkline_ops.servers.guard import Guard
from trunkline_ops.servers.ways import ServerError

_READY_SECONDS = 180  # RabbitMQ on a machine that is busy with other things
_BETWEEN_PROBES = 0.02  # seconds


class Server(ABC):
    """A server that this program started; or, without controls, one that the environment names."""

    def __init__(
        self,
        guard: Guard | Container | None = None,
        command: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """`command`, with `environment`, is what `guard`, or its container, starts it with."""
        self._guard = guard
        self._command = list(command)
        self._environment = dict(environment or {})

    @abstractmethod
    def answers(self) -> bool:
        """Whether it serves a client right now."""

    def start(self) -> None:
        """Starts it; after `stop` or `kill` with the data and on the ports that it had.

        Returns when it answers.

        Raises:
            ServerError: it is running already, or it ended, or it did not answer within three minutes.
        """
        self._own().start(self._command, self._environment)
        self._wait_until_it_answers()

    def stop(self) -> None:
        """Ends it in good order."""
        self._own().stop()

    def restart(self) -> None:
        """Ends it in good order and starts it again."""
        self.stop()
        self.start()

    def kill(self) -> None:
        """Ends it with SIGKILL, as a crash would."""
        self._own().kill()

    def pause(self) -> None:
        """Stands its processes still with SIGSTOP: the kernel accepts connections, and nothing is answered."""
        self._own().pause()

    def resume(self) -> None:
        """Lets it go on after `pause`. Returns when it answers."""
        self._own().resume()
        self._wait_until_it_answers()

    def _own(self) -> Guard | Container:
        if self._guard is None:
            raise ServerError("this server is not this program's own: private=True gives one to control")
        return self._guard

    def _wait_until_it_answers(self) -> None:
        guard = self._own()
        give_up = time.monotonic() + _READY_SECONDS
        while not self.answers():
            if not guard.is_running():
                raise ServerError(f"{self._command[0]} ended:\n{guard.log()}")
            if time.monotonic() > give_up:
                raise ServerError(f"{self._command[0]} gave no answer in {_READY_SECONDS} s:\n{guard.log()}")
            time.sleep(_BETWEEN_PROBES)
