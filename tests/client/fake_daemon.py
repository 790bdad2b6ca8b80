"""An in-memory daemon that honours the contract, for the tests of the client; see fake_host.py."""

# ruff: noqa: N802 -- the methods have the names of the contract

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from hostmanager.v1 import host_manager_pb2 as pb

from tests.client.fake_host import FakeService, until

__all__ = ["FakeDaemon", "until"]


class FakeDaemon(FakeService):
    """The RPCs of the service."""

    # --- unary

    def GetStatus(self, request: Any, context: Any) -> Any:
        self._enter(request, context)
        answer = pb.GetStatusResponse(
            revision=self.revision, manager=self.manager(), resume_token=self._token()
        )
        answer.time.GetCurrentTime()
        for i in sorted(self.instances.values(), key=lambda i: i.instance_id):
            answer.child_states.add(instance_id=i.instance_id, next_action=i.next_action, operable=i.operable)
        return answer

    def ListInstances(self, request: Any, context: Any) -> Any:
        self._enter(request, context)
        self._check(context, {f"instance_ids[{n}]": i for n, i in enumerate(request.instance_ids)})
        selected = self.select(context, request.selectors)
        named = bool(request.instance_ids or request.selectors)
        wanted = sorted({*request.instance_ids, *selected} if named else self.instances)
        if request.failing:
            wanted = [i for i in wanted if self.instances[i].failing]
        start, size = int(request.page_token or 0), min(request.page_size or 500, self.page_limit)
        page = wanted[start : start + size]
        more = str(start + size) if start + size < len(wanted) else ""
        return pb.ListInstancesResponse(
            instances=[self.instances[i] for i in page],
            next_page_token=more,
            revision=self.revision,
            resume_token=self._token(),
        )

    def GetInstance(self, request: Any, context: Any) -> Any:
        self._enter(request, context)
        self._check(context, {"instance_id": request.instance_id})
        return pb.GetInstanceResponse(
            instance=self.instances[request.instance_id], revision=self.revision, resume_token=self._token()
        )

    def Update(self, request: Any, context: Any) -> Any:
        self._enter(request, context)
        if self.manager_state != pb.MANAGER_STATE_RUNNING:
            text = "the manager is stopped; start it first"
            self._fail(context, grpc.StatusCode.FAILED_PRECONDITION, text, "MANAGER_STOPPED", [])
        named = {
            f"requests[{n}].instance_id": c.instance_id
            for n, c in enumerate(request.requests)
            if not c.selector
        }
        self._check(context, {where: i for where, i in named.items() if i != "all"})
        touched: dict[str, pb.TargetState.ValueType] = {}
        for change in request.requests:
            ids = sorted(self.instances) if change.instance_id == "all" else [change.instance_id]
            if change.selector:
                ids = self.select(context, [change.selector], "requests[{}]")
            if change.failing:
                ids = [i for i in ids if self.instances[i].failing]
            touched |= dict.fromkeys(ids, change.target_state)
        answer = pb.UpdateResponse(revision=self.revision, epoch=self.epoch, resume_token=self._token())
        if request.reload_config:
            answer.config_warnings.extend(self.problems)
            answer.changes.extend(self.config_changes)
            answer.stopping = sum(change.stops for change in self.config_changes)
            answer.time.GetCurrentTime()
        if request.validate_only:
            for instance_id, target in touched.items():
                generation = self.instances[instance_id].generation
                answer.generations.add(instance_id=instance_id, generation=generation, target_state=target)
            return answer
        for instance_id, target in touched.items():
            generation = self.instances[instance_id].generation + 1
            self.change(instance_id, target_state=target, generation=generation)
            if instance_id not in self.stubborn:
                self.settle(instance_id)
            answer.generations.add(instance_id=instance_id, generation=generation, target_state=target)
        answer.revision, answer.resume_token = self.revision, self._token()
        return answer

    def Restart(self, request: Any, context: Any) -> Any:
        self._enter(request, context)
        self._check(context, {f"instance_ids[{n}]": i for n, i in enumerate(request.instance_ids)})
        up = [i for i, v in sorted(self.instances.items()) if v.target_state == pb.TARGET_STATE_UP]
        bad = [i for i in request.instance_ids if i not in up]
        if bad:
            violations = [("instance_ids[0]", f"the target of {bad[0]!r} is down")]
            self._fail(context, grpc.StatusCode.INVALID_ARGUMENT, "bad request", "TARGET_IS_DOWN", violations)
        answer = pb.RestartResponse(revision=self.revision, epoch=self.epoch, resume_token=self._token())
        selected = [i for i in self.select(context, request.selectors) if i in up]
        wanted = [*request.instance_ids, *selected] if request.instance_ids or request.selectors else up
        for instance_id in [i for i in wanted if self.instances[i].failing or not request.failing]:
            generation = self.instances[instance_id].generation + 1
            self.change(instance_id, generation=generation, next_action=pb.NEXT_ACTION_WAIT_DEAD)
            if instance_id not in self.stubborn:
                self.settle(instance_id)
            answer.generations.add(
                instance_id=instance_id, generation=generation, target_state=pb.TARGET_STATE_UP
            )
        return answer

    @property
    def signals(self) -> list[tuple[str, str, bool]]:
        """The sent signals: id, signal and whether to the whole tree."""
        return [
            (request.instance_id, request.signal, request.whole_tree)
            for request in self.requests
            if isinstance(request, pb.SignalRequest)
        ]

    def Signal(self, request: Any, context: Any) -> Any:
        self._enter(request, context)
        self._check(context, {"instance_id": request.instance_id})
        if self.instances[request.instance_id].next_action == pb.NEXT_ACTION_DOWN:
            text = f"cannot signal {request.instance_id!r}: nothing of it runs"
            self._fail(context, grpc.StatusCode.FAILED_PRECONDITION, text, "NOT_SIGNALLED", [])
        return pb.SignalResponse(revision=self.revision, epoch=self.epoch)

    def Hold(self, request: Any, context: Any) -> Any:
        self._enter(request, context)
        self._check(context, {f"instance_ids[{n}]": i for n, i in enumerate(request.instance_ids)})
        hold = pb.InstanceHold(reason=request.reason)
        if request.HasField("duration"):
            hold.end_time.seconds = 1_700_000_000 + request.duration.seconds
        for instance_id in request.instance_ids:
            self.instances[instance_id].hold.CopyFrom(hold)
            self.change(instance_id)
        end = hold.end_time if request.HasField("duration") else None
        return pb.HoldResponse(revision=self.revision, epoch=self.epoch, end_time=end)

    def Release(self, request: Any, context: Any) -> Any:
        self._enter(request, context)
        self._check(context, {f"instance_ids[{n}]": i for n, i in enumerate(request.instance_ids)})
        return pb.ReleaseResponse(revision=self.revision, epoch=self.epoch)

    def Run(self, request: Any, context: Any) -> Iterator[Any]:
        self._enter(request, context)
        self._check(context, {"instance": request.instance})
        yield pb.RunResponse(instance_id=request.instance)
        yield pb.RunResponse(message="waiting for db to be up")
        yield pb.RunResponse(lines=[pb.LogLine(text=f"done {' '.join(request.arguments)}")])
        last = self.instances[request.instance]
        end = last.last_exit if last.HasField("last_exit") else None
        yield pb.RunResponse(ended=True, exit=end, message=last.last_exit.message or "no such program")

    def StartManager(self, request: Any, context: Any) -> Any:
        self._enter(request, context)
        if self.manager_state == pb.MANAGER_STATE_RUNNING:
            text = "the manager runs already"
            self._fail(context, grpc.StatusCode.FAILED_PRECONDITION, text, "MANAGER_RUNNING", [])
        self.manager_state = pb.MANAGER_STATE_RUNNING
        return pb.StartManagerResponse(revision=self.revision, epoch=self.epoch, resume_token=self._token())

    def StopManager(self, request: Any, context: Any) -> Any:
        self._enter(request, context)
        self.manager_state = pb.MANAGER_STATE_STOPPED
        return pb.StopManagerResponse(revision=self.revision, epoch=self.epoch)

    def Upgrade(self, request: Any, context: Any) -> Any:
        self._enter(request, context)
        if request.expected_epoch not in ("", self.epoch):
            self._fail(context, grpc.StatusCode.ABORTED, "another daemon runs", "STALE_EPOCH", [])
        answer = pb.UpgradeResponse(epoch=self.epoch, version="9.9")
        if not request.validate_only and self.upgrade_succeeds:
            self.epoch = f"{self.epoch}+"
        return answer

    def Die(self, request: Any, context: Any) -> Any:
        self._enter(request, context)
        if request.expected_epoch not in ("", self.epoch):
            self._fail(context, grpc.StatusCode.ABORTED, "another daemon runs", "STALE_EPOCH", [])
        self.died = True
        return pb.DieResponse(epoch=self.epoch)

    def Explain(self, request: Any, context: Any) -> Any:
        self._enter(request, context)
        self._check(context, {f"instance_ids[{n}]": i for n, i in enumerate(request.instance_ids)})
        answer = pb.ExplainResponse(revision=self.revision, manager=self.manager())
        answer.time.GetCurrentTime()
        answer.explanations.extend(self.explanations)
        answer.as_wanted = len(self.instances) - sum(not each.as_wanted for each in self.explanations)
        return answer

    def ListEvents(self, request: Any, context: Any) -> Any:
        self._enter(request, context)
        ids = {*request.instance_ids, *self.select(context, request.selectors)}
        wanted = [e for e in self.events if not ids or e.instance_id in ids]
        if request.newest:
            wanted = wanted[-request.newest :]
        start, size = int(request.page_token or 0), min(request.page_size or 100, self.page_limit)
        more = str(start + size) if start + size < len(wanted) else ""
        return pb.ListEventsResponse(
            events=wanted[start : start + size],
            next_page_token=more,
            resume_token=f"{self.epoch}:{len(self.events)}",
        )

    def GetUsage(self, request: Any, context: Any) -> Any:
        self._enter(request, context)
        self._check(context, {f"instance_ids[{n}]": i for n, i in enumerate(request.instance_ids)})
        ids = {*request.instance_ids, *self.select(context, request.selectors)}
        usages = [u for u in self.usages if not ids or u.instance_id in ids]
        return pb.GetUsageResponse(usages=usages, time=self._now())

    # --- streams

    def WatchUsage(self, request: Any, context: Any) -> Any:
        self._enter(request, context)
        while context.is_active():
            yield pb.WatchUsageResponse(usages=self.usages, time=self._now())
            until(lambda: not self.hold)
            if self.generation_of_streams:
                context.abort(grpc.StatusCode.UNAVAILABLE, "the stream was dropped")
            self.hanging.wait(0.05)
            time.sleep(0.02)  # the pace of the measurements, also once nothing hangs

    def _now(self) -> Timestamp:
        now = Timestamp()
        now.GetCurrentTime()
        return now

    def _stream(
        self, context: grpc.ServicerContext, heartbeat: float, turn: Callable[..., list[Any]]
    ) -> Iterator[Any]:
        """Yield the messages of each turn, after a change or when a heartbeat is due, until dropped."""
        with self.changed:
            mine = self.generation_of_streams
            self.streams += 1
            self.changed.notify_all()

        def wake() -> None:
            with self.changed:
                self.changed.notify_all()

        context.add_callback(wake)
        try:
            due = False
            while context.is_active():
                with self.changed:
                    if mine != self.generation_of_streams:
                        break
                    messages = [] if self.hold else turn(heartbeat_due=due and not self.silent)
                    due = not messages and not self.changed.wait(heartbeat)
                yield from messages
            if context.is_active():
                context.abort(grpc.StatusCode.UNAVAILABLE, "the stream was dropped")
        finally:
            with self.changed:
                self.streams -= 1
                self.changed.notify_all()

    def WatchStatus(self, request: Any, context: Any) -> Any:
        self._enter(request, context)
        ids = {*request.instance_ids, *self.select(context, request.selectors)}
        epoch, _, token = request.resume_token.partition(":")
        cursor = int(token) if token and epoch == self.epoch else -1
        reason = pb.StatusSnapshot.REASON_EPOCH_CHANGED if token else pb.StatusSnapshot.REASON_INITIAL

        def message(**fields: Any) -> pb.WatchStatusResponse:
            made = pb.WatchStatusResponse(revision=self.revision, resume_token=self._token(), **fields)
            made.time.GetCurrentTime()
            return made

        def turn(*, heartbeat_due: bool) -> list[Any]:
            nonlocal cursor
            with self.changed:
                visible = {i: v for i, v in self.instances.items() if not ids or i in ids}
                if request.failing:
                    visible = {i: v for i, v in visible.items() if v.failing}
                if cursor < 0:
                    cursor = self.revision
                    return self._snapshot(message, list(visible.values()), reason)
                changed = [v for v in visible.values() if v.revision > cursor]
                removed = [i for i, r in self.removals.items() if r > cursor and i not in self.instances]
                cursor = self.revision
                if changed or removed:
                    return [message(delta=pb.StatusDelta(instances=changed, removed_instance_ids=removed))]
                return [message(heartbeat=pb.Heartbeat())] if heartbeat_due else []

        heartbeat = request.heartbeat_interval.ToMilliseconds() / 1000
        yield from self._stream(context, heartbeat or 15.0, turn)

    def _snapshot(self, message: Any, instances: list[Any], reason: Any) -> list[Any]:
        size = max(1, -(-len(instances) // self.pieces))
        chunks = [instances[n : n + size] for n in range(0, len(instances), size)] or [[]]
        return [
            message(
                snapshot=pb.StatusSnapshot(
                    reason=reason,
                    manager=self.manager() if n == 0 else None,
                    instances=chunk,
                    first=n == 0,
                    last=n == len(chunks) - 1,
                )
            )
            for n, chunk in enumerate(chunks)
        ]

    def WatchEvents(self, request: Any, context: Any) -> Any:
        self._enter(request, context)
        ids = {*request.instance_ids, *self.select(context, request.selectors)}
        epoch, _, token = request.resume_token.partition(":")
        gap = pb.EventGap(message="an earlier epoch of the daemon") if token and epoch != self.epoch else None
        cursor = int(token) if token and gap is None else len(self.events)

        def turn(*, heartbeat_due: bool) -> list[Any]:
            nonlocal cursor, gap
            with self.changed:
                new = [e for e in self.events[cursor:] if not ids or e.instance_id in ids]
                cursor = len(self.events)
                if not (new or gap or heartbeat_due):
                    return []
                answer = pb.WatchEventsResponse(events=new, gap=gap, resume_token=f"{self.epoch}:{cursor}")
                gap = None
                return [answer]

        yield from self._stream(context, request.heartbeat_interval.ToMilliseconds() / 1000 or 15.0, turn)

    def DockerPull(self, request: Any, context: Any) -> Any:
        self._enter(request, context)
        self._check(context, {f"instance_ids[{n}]": i for n, i in enumerate(request.instance_ids)})
        yield from self.pulls
        if self.pull_waits:
            yield from self._stream(context, 3600.0, lambda heartbeat_due: [])

    def RemoveOrphans(self, request: Any, context: Any) -> Any:
        self._enter(request, context)
        yield from self.orphan_removals

    def _log_line(self, instance_id: str, index: int) -> pb.LogLine:
        line = pb.LogLine(text=self.logs[instance_id][index], stream=pb.LOG_STREAM_COMBINED)
        if at := self.log_times.get((instance_id, index)):
            line.time.FromMilliseconds(round(at * 1000))
        return line

    def TailLogs(self, request: Any, context: Any) -> Any:
        self._enter(request, context)
        if not request.daemon:
            self._check(context, {"instance_id": request.instance_id})
        self.log_requests.append(request)
        lines = self.logs.setdefault(request.instance_id, [])
        wanted = request.lines if request.HasField("lines") else 100
        cursor = max(0, len(lines) - wanted)
        caught_up = self.old_daemon

        def turn(*, heartbeat_due: bool) -> list[Any]:
            nonlocal cursor, caught_up
            with self.changed:
                begin, cursor = cursor, len(lines)
            texts = [self._log_line(request.instance_id, n) for n in range(begin, cursor)]
            messages = [pb.TailLogsResponse(lines=texts)] if texts else []
            if request.follow and not caught_up:
                caught_up = True
                messages.append(pb.TailLogsResponse(caught_up=True))
            return messages

        if request.follow:
            yield from self._stream(context, 3600.0, turn)
        else:
            yield from turn(heartbeat_due=False)
