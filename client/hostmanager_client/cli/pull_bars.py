"""Progress bars of a pull, on a terminal."""

from __future__ import annotations

from collections.abc import Iterable

from hostmanager.v1 import host_manager_pb2 as pb
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn
from rich.text import Text

from hostmanager_client.cli.escape import one_line
from hostmanager_client.cli.live_lines import EscapingConsole
from hostmanager_client.cli.pull_text import image_line

_OVER = (
    pb.ImagePull.STATE_UP_TO_DATE,
    pb.ImagePull.STATE_PULLED,
    pb.ImagePull.STATE_SKIPPED,
    pb.ImagePull.STATE_FAILED,
    pb.ImagePull.STATE_CANCELLED,
)
_LAYER_DONE = ("Pull complete", "Already exists", "Download complete")


def show_bars(messages: Iterable[pb.DockerPullResponse]) -> pb.PullResult:
    """Show bars for images and layers, and a line for each finished image; return the result."""
    console = EscapingConsole()
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        bars = _Bars(progress)
        for message in messages:
            if message.joined and not bars.known:
                console.print("following the running pull")
            for image in message.images:
                bars.show(image)
    return message.result


class _Bars:
    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[tuple[str, str], TaskID] = {}  # by image and layer (empty: the whole image)
        self.known: set[str] = set()

    def show(self, image: pb.ImagePull) -> None:
        self.known.add(image.image)
        if image.state in _OVER:
            self._remove(image.image)
            self._progress.console.print(Text(image_line(image)))
            return
        total = sum(layer.total for layer in image.layers)
        done = sum(layer.total if layer.status in _LAYER_DONE else layer.current for layer in image.layers)
        finished = sum(layer.status in _LAYER_DONE for layer in image.layers)
        count = f"  {finished}/{len(image.layers)} layers" if image.layers else f"  {one_line(image.message)}"
        self._bar((image.image, ""), f"{one_line(image.image)}{count}", done, total)
        for layer in image.layers:
            key = (image.image, layer.id)
            if layer.status in _LAYER_DONE:
                self._drop(key)
            elif layer.total:
                self._bar(key, one_line(f"  {layer.id} {layer.status}"), layer.current, layer.total)

    def _bar(self, key: tuple[str, str], text: str, done: int, total: int) -> None:
        task = self._tasks.get(key)
        if task is None:
            self._tasks[key] = self._progress.add_task(text, completed=done, total=total or None)
        else:
            self._progress.update(task, description=text, completed=done, total=total or None)

    def _drop(self, key: tuple[str, str]) -> None:
        task = self._tasks.pop(key, None)
        if task is not None:
            self._progress.remove_task(task)

    def _remove(self, image: str) -> None:
        for key in [key for key in self._tasks if key[0] == image]:
            self._drop(key)
