"""An engine whose answers a test writes down: for the logic around engines. The engines have tests of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from raysys.llm.contract import Completion, Failure, Reply, Request


class ScriptedGenerator:
    """Answers with `script(request)`: texts, (text, finish_reason) pairs or a Failure. `asked` keeps every request."""

    def __init__(self, script: Callable[[Request], Sequence | Failure]) -> None:
        self._script = script
        self.asked: list[Request] = []
        self.rounds = 0

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        self.rounds += 1
        self.asked += requests
        return [self._reply(request) for request in requests]

    def _reply(self, request: Request) -> Reply:
        said = self._script(request)
        if isinstance(said, Failure):
            return said
        pairs = [text if isinstance(text, tuple) else (text, "stop") for text in said]
        return [Completion(text, finish, 7, 3) for text, finish in pairs]

    def close(self) -> None:
        """Nothing is held."""
