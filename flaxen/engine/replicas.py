"""Several engines as one: the data replicas of a mesh, each with the whole model (decision 0284).

All are stepped by one thread, each when its device is done: while one computes, another's results
are read and its next step is planned.

Deliberately does not know: JAX, meshes, threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, final

from flaxen.engine.core import Engine
from flaxen.engine.replica_choice import ReplicaChoice
from flaxen.engine.stats import sum_stats
from flaxen.engine.stepped import SteppedEngine
from flaxen.protocol import (
    AdapterInfo,
    EngineStats,
    Request,
    RequestIdInUseError,
    TokenEvent,
)
from flaxen.scheduling.checked import CheckedRequest


@final
class ReplicatedEngine(SteppedEngine):
    """Sends each request, with all of its sequences, to one of the replicas.

    Args:
      replicas: engines of one model and of one config, with one store of adapters and one source of
        seeds, so that a request's text does not depend on the replica.
    """

    def __init__(self, replicas: Sequence[Engine]) -> None:
        first = replicas[0]
        assert all(each.adapters is first.adapters for each in replicas), "one store for all"
        self.config, self.info, self.adapters = first.config, first.info, first.adapters
        self.schedule_s = 0.0
        self._replicas = tuple(replicas)
        self._turns = list(replicas)  # the one that was stepped longest ago comes first
        config, num_pages = first.config, 0
        if config.enable_prefix_caching:
            num_pages = max(group.num_pages for group in config.groups) * len(replicas)
        self._choice = ReplicaChoice(len(replicas), config.page_size, num_pages)

    @property
    def capacity(self) -> int:
        return sum(each.capacity for each in self._replicas)

    @property
    def has_work(self) -> bool:
        return any(each.has_work for each in self._replicas)

    def check(self, request: Request) -> CheckedRequest:
        return self._replicas[0].check(request)

    def add(self, checked: CheckedRequest, arrival_s: float | None = None) -> None:
        request = checked.request
        if self.is_open(request.request_id):
            raise RequestIdInUseError(request.request_id)
        places = range(len(self._replicas))
        with_room = [each for each in places if self._replicas[each].has_room(request.sampling.n)]
        # Where there is none, the chosen one says so.
        chosen = self._replicas[self._choice.choose(checked, with_room or places)]
        try:
            chosen.add(checked, arrival_s)
        except BaseException:  # whatever it was, the replica has not got it; it is raised again
            self._choice.ended(request.request_id)
            raise

    def is_open(self, request_id: str) -> bool:
        return any(each.is_open(request_id) for each in self._replicas)

    def has_room(self, num_seqs: int) -> bool:
        return any(each.has_room(num_seqs) for each in self._replicas)

    def abort(self, request_id: str) -> None:
        for each in self._replicas:
            each.abort(request_id)

    def step(self, *, plans: bool = True) -> list[TokenEvent]:
        """Steps the replicas that would not wait for their device, or the one that is next; without
        plans all of them."""
        busy = [each for each in self._turns if each.has_work]
        ready = [each for each in busy if each.is_ready or not plans] or busy[:1]
        events: list[TokenEvent] = []
        for replica in ready:
            self._turns.remove(replica)
            self._turns.append(replica)
            events += replica.step(plans=plans)
        for request_id in {each.request_id for each in events if each.finish is not None}:
            if not self.is_open(request_id):
                self._choice.ended(request_id)
        self.schedule_s = sum(each.schedule_s for each in self._replicas)
        return events

    def warm_up(self) -> bool:
        return any(each.warm_up() for each in self._replicas)

    def set_params(
        self, params: Any, version: int | None = None, *, are_owned: bool = False
    ) -> None:
        """Sets the parameters, as SteppedEngine says; each replica has its own copy.

        Args:
          params: a sequence of parameters, one for each replica, on its devices.
          version, are_owned: as SteppedEngine says.
        """
        if not isinstance(params, Sequence) or len(params) != len(self._replicas):
            raise ValueError(
                f"{len(self._replicas)} data replicas need their own parameters each: give a list "
                f"of {len(self._replicas)}, or use a mesh with data=1"
            )
        for replica, own in zip(self._replicas, params, strict=True):
            replica.set_params(own, version, are_owned=are_owned)
        self._choice.forget()

    def reset_prefix_cache(self) -> None:
        for replica in self._replicas:
            replica.reset_prefix_cache()
        self._choice.forget()

    def sleep(self, *, keeps_weights: bool) -> None:
        for replica in self._replicas:
            replica.sleep(keeps_weights=keeps_weights)
        self._choice.forget()

    def wake_weights(self) -> None:
        for replica in self._replicas:
            replica.wake_weights()

    def wake_cache(self) -> None:
        for replica in self._replicas:
            replica.wake_cache()

    def set_adapter_stack(self, names: tuple[str, ...], stack: Any, scales: Any) -> None:
        raise ValueError(
            f"a trainer's adapters can't be served by {len(self._replicas)} data replicas, because "
            "its arrays are on the devices of one: use a mesh with data=1"
        )

    def known_adapters(self) -> tuple[AdapterInfo, ...]:
        by_replica = zip(*(each.known_adapters() for each in self._replicas), strict=False)
        return tuple(
            replace(infos[0], is_on_device=any(each.is_on_device for each in infos))
            for infos in by_replica
        )

    def stats(self) -> EngineStats:
        return sum_stats([each.stats() for each in self._replicas])
