"""An engine whose answers a test writes down: for the logic around engines. The engines have tests of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from raysys.llm.contract import Completion, Failure, Reply, Request


class ScriptedGenerator:
    """Answers with `script(request)`: texts, (text, finish_reason) pairs, Completions or a Failure.

    `asked` keeps every request.
    """

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
        return [text if isinstance(text, Completion) else _completion(text) for text in said]

    def close(self) -> None:
        """Nothing is held."""


def _completion(said: str | tuple[str, str]) -> Completion:
    text, finish_reason = said if isinstance(said, tuple) else (said, "stop")
    return Completion(text, finish_reason, 7, 3)
